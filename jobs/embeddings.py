"""A column with a vector of each document, from the encoder of a pipeline that has one."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from spacy.language import Language
from spacy.tokens import Doc

from .errors import JobError

FACTORY = "albert_vectors"
POOLINGS = ("mean", "cls")
TYPES = {"float32": pa.float32(), "float16": pa.float16()}


@dataclass(frozen=True)
class Embedding:
    """The column.

    pooling (str): What the vectors are the means of, as in spacy-albert.Vectors.v1.
    width (int): How long they are.
    type (str): What their numbers are written as: one of TYPES.
    """

    pooling: str
    width: int
    type: str

    @classmethod
    def of(cls, nlp: Language, type: str | None = None) -> "Embedding | None":
        """Find out whether a pipeline gives documents vectors.

        nlp (Language): The pipeline.
        type (str | None): What the numbers are to be written as; None for float32.
        RETURNS (Embedding | None): The column, or None.
        RAISES (JobError): If there is no encoder, or it has no weights; or if there are no vectors
            to be written as anything.
        """
        name = vectors_of(nlp)
        if name is None:
            if type is None:
                return None
            raise JobError(
                f"--embedding-type {type} says how to write embeddings, and the pipeline makes "
                "none: say which with --embedding mean or --embedding cls."
            )
        component: Any = nlp.get_pipe(name)
        try:
            return cls(component.pooling, component.width, type or "float32")
        except ValueError as error:
            raise JobError(f"The pipeline cannot make embeddings: {error}") from error

    def field(self) -> pa.Field:
        """RETURNS (pa.Field): The column."""
        return pa.field("embedding", pa.list_(TYPES[self.type], self.width))

    def value(self, doc: Doc) -> np.ndarray:
        """Read the vector of a document.

        doc (Doc): The document.
        RETURNS (np.ndarray): The vector, (H,), as it is written.
        RAISES (ValueError): If it has none.
        """
        if doc._.vector is None:
            raise ValueError("the document lost its vector: a later component made another one")
        return doc._.vector.astype(self.type)


def refuse_embedding(pooling: str | None, type: str | None) -> None:
    """See to it that embeddings have been asked for in words that are known.

    pooling (str | None): What they are to be the means of.
    type (str | None): What their numbers are to be written as.
    RAISES (JobError): If not.
    """
    for option, value, known in (("", pooling, POOLINGS), ("-type", type, TYPES)):
        if value is not None and value not in known:
            raise JobError(f"There is no --embedding{option} {value}. Choose: {', '.join(known)}.")


def add_embedding(nlp: Language, pooling: str | None) -> None:
    """Have a pipeline give documents vectors, from the encoder that it has.

    nlp (Language): The pipeline.
    pooling (str | None): What they are to be the means of; None to leave it as it is.
    RAISES (JobError): If it has no encoder to share, or other vectors already.
    """
    if pooling is None:
        return
    if name := vectors_of(nlp):
        component: Any = nlp.get_pipe(name)
        if component.pooling != pooling:
            raise JobError(
                f"--embedding is {pooling}, and the pipeline has a component {name!r} whose "
                f"pooling is {component.pooling!r}. Leave --embedding out to have the vectors of "
                "the component."
            )
        return
    if not any(nlp.get_pipe_meta(name).factory == "albert" for name in nlp.pipe_names):
        raise JobError(
            "Embeddings come from an encoder that components share, and the pipeline has no "
            f"component `albert` ({', '.join(nlp.pipe_names) or 'it has none at all'}). An encoder "
            "of a head's own is not shared."
        )
    nlp.add_pipe(FACTORY, config={"model": {"pooling": pooling}})


def vectors_of(nlp: Language) -> str | None:
    """Find the component that gives documents vectors.

    nlp (Language): The pipeline.
    RETURNS (str | None): Its name; of several, that of the last one, whose vectors stay.
    """
    names = [name for name in nlp.pipe_names if nlp.get_pipe_meta(name).factory == FACTORY]
    return names[-1] if names else None
