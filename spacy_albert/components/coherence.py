from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Model

from ..borders import sentences_of
from ..layers import Orders, encoder_of
from ..shims import EncoderShim, OrderShim
from .pipe import AlbertPipe

for extension in ("coherence", "coherence_score"):
    if not Doc.has_extension(extension):
        Doc.set_extension(extension, default=None)


class AlbertCoherence(AlbertPipe):
    """How well each sentence follows the one before, by what ALBERT was pre-trained to tell:
    whether two segments are in order, or were swapped. There is nothing to train.
    """

    def __init__(self, vocab: Any, model: Model, name: str = "albert_coherence") -> None:
        """Make the component.

        vocab (Vocab): The shared vocabulary.
        model (Model): From spacy-albert.SentenceOrder.v1.
        name (str): The name of the component.
        RAISES (ValueError): If the model is another one.
        """
        self.vocab = vocab
        self.model = model
        self.name = name
        self.cfg = {}
        if model.name != "albert-order":
            raise ValueError(
                f"Component {name!r} needs a spacy-albert.SentenceOrder.v1 as its model."
            )

    @property
    def head(self) -> OrderShim:
        """RETURNS (OrderShim): The weights of the head."""
        return self.model.shims[0]  # type: ignore[return-value]

    def predict(self, docs: Iterable[Doc]) -> list[Orders]:
        """Look at the borders between sentences, without touching the documents.

        docs (Iterable[Doc]): The documents.
        RETURNS (list[Orders]): For each document, the logits of its borders.
        RAISES (ValueError): If a document has no sentences.
        """
        return self.model.predict(list(docs))

    def set_annotations(self, docs: Iterable[Doc], orders: Iterable[Orders]) -> None:
        """Write the scores into `doc._.coherence` and `doc._.coherence_score`.

        docs (Iterable[Doc]): The documents.
        orders (Iterable[Orders]): From `predict`.
        """
        for doc, (logits, shown) in zip(docs, orders):
            scores = logits.softmax(dim=1)[:, 0].tolist()
            borders = [
                {
                    "start": sentence.start_char,
                    "score": None if np.isnan(share) else score,
                    "shown": None if np.isnan(share) else share,
                }
                for sentence, score, share in zip(sentences_of(doc)[1:], scores, shown.tolist())
            ]
            set_coherence(doc, borders)

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

    # Weights

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        encoder: Callable[[EncoderShim], Any] | None = None,
        head: Callable[[OrderShim], Any] | None = None,
    ) -> None:
        """Get the weights.

        get_examples (Callable): Unused.
        nlp (Language): The pipeline.
        encoder (Callable): Where an encoder of the component's own starts from. A component that
            listens has no use for it.
        head (Callable): spacy-albert.Checkpoint.v1 with the checkpoint that the encoder is from.
            May be left out where the head has weights already.
        RAISES (ValueError): If there is no head, or it is not for the encoder.

        DOCS: https://spacy.io/api/pipe#initialize
        """
        tok2vec = self.start_encoder(nlp, encoder)
        if head is not None:
            head(self.head)
        _ = self.head.module  # fails here, and says what to do, when there are no weights
        self.head.refuse_width(encoder_of(tok2vec).reader.model.config.hidden_size)


def set_coherence(doc: Doc, borders: list[dict[str, Any]]) -> None:
    """Write down what is known of the borders between a document's sentences.

    doc (Doc): The document.
    borders (list[dict[str, Any]]): For each border the character at which its second sentence
        begins, the score, and the share that was shown.
    """
    known = [border["score"] for border in borders if border["score"] is not None]
    doc._.coherence = borders
    doc._.coherence_score = sum(known) / len(known) if known else None
