"""What a pipeline writes to a document, as Arrow columns."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from spacy.language import Language
from spacy.tokens import Doc, Span

from .embeddings import Embedding
from .errors import JobError

#: Offsets count characters (code points) of the text column.
ENTITY = pa.struct(
    [
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("label", pa.string()),
        ("text", pa.string()),
        ("score", pa.float32()),
    ]
)
BORDER = pa.struct([("start", pa.int32()), ("score", pa.float32()), ("shown", pa.float32())])
EXCLUSIVE = ("textcat", "albert_textcat")


@dataclass(frozen=True)
class Outputs:
    """The annotations of a pipeline.

    ents (bool): Whether it writes entities.
    classes (tuple[str, ...]): The labels in `doc.cats`.
    exclusive (tuple[str, ...]): Those of them of which one applies to each document.
    windows (bool): Whether it counts the windows that a text was read in.
    embedding (Embedding | None): The column of vectors, if it makes some.
    coherence (bool): Whether it tells how sentences follow each other.
    """

    ents: bool
    classes: tuple[str, ...]
    exclusive: tuple[str, ...]
    windows: bool
    embedding: Embedding | None = None
    coherence: bool = False

    @classmethod
    def of(cls, nlp: Language, embedding_type: str | None = None) -> "Outputs":
        """Find out what a pipeline writes, from what its components say they assign.

        nlp (Language): The pipeline.
        embedding_type (str | None): What vectors are to be written as; None for float32.
        RETURNS (Outputs): Its annotations.
        RAISES (JobError): If it writes none.
        """
        assigned = {name: nlp.get_pipe_meta(name).assigns for name in nlp.pipe_names}
        factories = {name: nlp.get_pipe_meta(name).factory for name in nlp.pipe_names}
        classifiers = [name for name in nlp.pipe_names if "doc.cats" in assigned[name]]
        labels = {name: nlp.pipe_labels.get(name, []) for name in classifiers}
        exclusive = [name for name in classifiers if factories[name] in EXCLUSIVE]
        outputs = cls(
            ents=any("doc.ents" in names for names in assigned.values()),
            classes=tuple(dict.fromkeys(label for name in classifiers for label in labels[name])),
            # of two such components, neither has the one best label
            exclusive=tuple(labels[exclusive[0]]) if len(exclusive) == 1 else (),
            windows=any("doc._.n_windows" in names for names in assigned.values()),
            embedding=Embedding.of(nlp, embedding_type),
            coherence=any("doc._.coherence" in names for names in assigned.values()),
        )
        if not (outputs.ents or outputs.classes or outputs.embedding or outputs.coherence):
            raise JobError(
                "The pipeline has no annotations to write: none of its components "
                f"({', '.join(nlp.pipe_names) or 'it has none'}) assigns doc.ents, or assigns "
                "doc.cats and has labels, or is an albert_vectors or albert_coherence. A component "
                'of your own says what it assigns with @Language.component("name", '
                'assigns=["doc.ents"]). Where there is an `albert`, --embedding mean has vectors '
                "written."
            )
        return outputs

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Outputs":
        lists = {"classes": tuple(values["classes"]), "exclusive": tuple(values["exclusive"])}
        vectors = values.get("embedding")  # plans of earlier versions know of none
        return cls(**{**values, **lists, "embedding": vectors and Embedding(**vectors)})

    def fields(self) -> list[pa.Field]:
        """The columns, in the order in which they follow the kept ones.

        RETURNS (list[pa.Field]): The columns.
        """
        fields = []
        if self.ents:
            fields.append(pa.field("ents", pa.list_(ENTITY)))
        if self.classes:
            fields.append(pa.field("cats", pa.struct([(c, pa.float32()) for c in self.classes])))
        if self.exclusive:
            fields.append(pa.field("cat", pa.string()))
        if self.coherence:
            fields.append(pa.field("coherence", pa.list_(BORDER)))
        fields.append(pa.field("n_tokens", pa.int32()))
        if self.windows:
            fields.append(pa.field("n_windows", pa.int32()))
        if self.embedding:
            fields.append(self.embedding.field())
        fields.append(pa.field("error", pa.string()))
        return fields

    def row(self, doc: Doc, text: str) -> dict[str, Any]:
        """Read the annotations of a document.

        doc (Doc): The document.
        text (str): The text it was made from.
        RETURNS (dict[str, Any]): A value for every column of `fields`.
        RAISES (ValueError): If an entity is not where it says, a class has no column, or a vector
            or the coherence is missing.
        """
        row: dict[str, Any] = {"n_tokens": len(doc), "error": None}
        if self.ents:
            row["ents"] = [entity(span, text) for span in doc.ents]
        if self.classes:
            if unknown := doc.cats.keys() - set(self.classes):
                raise ValueError(f"classes that no component names as labels: {sorted(unknown)}")
            row["cats"] = {label: doc.cats.get(label) for label in self.classes}
        if self.exclusive:
            scores = {label: doc.cats[label] for label in self.exclusive if label in doc.cats}
            row["cat"] = max(scores, key=scores.__getitem__) if scores else None
        if self.windows:
            row["n_windows"] = doc._.n_windows
        if self.coherence:
            if doc._.coherence is None:
                raise ValueError("no coherence: a later component made another document")
            row["coherence"] = doc._.coherence
        if self.embedding:
            row["embedding"] = self.embedding.value(doc)
        return row


def entity(span: Span, text: str) -> dict[str, Any]:
    """Read an entity.

    span (Span): The entity.
    text (str): The text of its document.
    RETURNS (dict[str, Any]): Its offsets, label, text and score.
    RAISES (ValueError): If it is not where it says in the text.
    """
    start, end = span.start_char, span.end_char
    if text[start:end] != span.text:
        raise ValueError(f"the tokenizer made {span.text!r} of {text[start:end]!r}")
    return {
        "start": start,
        "end": end,
        "label": span.label_,
        "text": span.text,
        "score": span._.score if Span.has_extension("score") else None,
    }
