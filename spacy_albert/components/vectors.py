from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Model
from torch import Tensor

from ..hooks import hook_vectors
from ..layers import encoder_of
from ..shims import EncoderShim
from .pipe import AlbertPipe


class AlbertVectors(AlbertPipe):
    """Vectors of documents, and on request of their spans and tokens, from an encoder that others
    may share. There is nothing to learn.
    """

    def __init__(self, vocab: Any, model: Model, name: str = "albert_vectors") -> None:
        """Make the component.

        vocab (Vocab): The shared vocabulary.
        model (Model): From spacy-albert.Vectors.v1.
        name (str): The name of the component.
        RAISES (ValueError): If the model is another one.
        """
        self.vocab = vocab
        self.model = model
        self.name = name
        self.cfg = {}
        if model.name != "albert-vectors":
            raise ValueError(f"Component {name!r} needs a spacy-albert.Vectors.v1 as its model.")

    @property
    def pooling(self) -> str:
        """RETURNS (str): What the vector of a document is the mean of: "mean" or "cls"."""
        return self.model.attrs["pooling"]

    @property
    def width(self) -> int:
        """RETURNS (int): How long the vectors are.
        RAISES (ValueError): If there is no encoder, or it has no weights yet.
        """
        return encoder_of(self.model.layers[0]).reader.model.config.hidden_size

    def predict(self, docs: Iterable[Doc]) -> list[Tensor]:
        """Read the vectors, without touching the documents.

        docs (Iterable[Doc]): The documents.
        RETURNS (list[Tensor]): (1, H) or (1 + T, H) each, the document's own first.
        """
        return self.model.predict(list(docs))

    def set_annotations(self, docs: Iterable[Doc], vectors: Iterable[Tensor]) -> None:
        """Keep the vectors with the documents, where spaCy finds them.

        docs (Iterable[Doc]): The documents.
        vectors (Iterable[Tensor]): From `predict`.
        """
        for doc, rows in zip(docs, vectors):
            # copies: a view would keep those of the whole batch
            doc._.vector = np.array(rows[0])
            doc._.token_vectors = np.array(rows[1:]) if self.model.attrs["tokens"] else None
            hook_vectors(doc)

    # Training passes by

    @property
    def is_trainable(self) -> bool:
        """RETURNS (bool): False."""
        return False

    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Any = None,
        losses: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """RETURNS (dict[str, float]): The losses, to which this adds none."""
        return {} if losses is None else losses

    def get_loss(self, examples: Iterable[Example], scores: Any) -> tuple[float, float]:
        """There is none."""
        return 0.0, 0.0

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        encoder: Callable[[EncoderShim], Any] | None = None,
    ) -> None:
        """Get the weights of the encoder.

        get_examples (Callable): Unused.
        nlp (Language): The pipeline.
        encoder (Callable): Where an encoder of the component's own starts from, for instance
            spacy-albert.Checkpoint.v1. A component that listens has no use for it.

        DOCS: https://spacy.io/api/pipe#initialize
        """
        self.start_encoder(nlp, encoder)
