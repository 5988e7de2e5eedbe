from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Model
from torch import Tensor

from ..layers import Gradient, encoder_of
from .pipe import AlbertHead


class AlbertTextcat(AlbertHead):
    """Text classification with exclusive classes: one score each in `doc.cats`, which sum to 1."""

    kind = "text"
    architecture = "spacy-albert.TextClassifier.v1"
    exclusive = True

    @property
    def n_least(self) -> int:
        """RETURNS (int): Classes that there must be."""
        return 2 if self.exclusive else 1

    # From documents to annotations

    def predict(self, docs: Iterable[Doc]) -> list[np.ndarray]:
        """Score the classes, without touching the documents.

        docs (Iterable[Doc]): The documents.
        RETURNS (list[np.ndarray]): Probabilities, (K,) each.
        """
        docs = list(docs)
        return self.interpret(docs, self.answers(docs))

    def interpret(self, docs: Sequence[Doc], answers: Sequence[Tensor]) -> list[np.ndarray]:
        """Turn the logits of some documents into scores.

        docs (Sequence[Doc]): The documents.
        answers (Sequence[Tensor]): Their logits, (K,) each.
        RETURNS (list[np.ndarray]): Probabilities, (K,) each.
        """
        if not docs:
            return []
        logits = torch.stack(list(answers)) / self.cfg["temperature"]  # (D, K)
        return list((logits.softmax(dim=1) if self.exclusive else logits.sigmoid()).numpy())

    def set_annotations(self, docs: Iterable[Doc], predictions: Iterable[np.ndarray]) -> None:
        """Write the scores into `doc.cats`.

        docs (Iterable[Doc]): The documents.
        predictions (Iterable[np.ndarray]): From `predict`.
        """
        for doc, scores in zip(docs, predictions):
            doc.cats.update(zip(self.labels, scores.tolist()))

    # Training

    def get_loss(self, examples: Iterable[Example], scores: list[Tensor]) -> tuple[float, Gradient]:
        """Compare with the gold classes: mean cross-entropy over the annotated documents, or over
        the annotated labels where classes are not exclusive.

        examples (Iterable[Example]): The examples. A document without any class, or a label that
            is not among a document's classes, does not count.
        scores (list[Tensor]): Logits, (K,) each.
        RETURNS (tuple[float, Gradient]): The loss, and the way to a lower one.
        """
        logits = torch.stack(scores).detach().requires_grad_()  # (D, K)
        truth = self.truth(examples).to(logits)  # (D, K)
        if self.exclusive:
            truth = truth.nan_to_num(0.0)
            known = truth.sum(dim=1) > 0
            terms = F.cross_entropy(logits, truth, reduction="none")  # (D,)
        else:
            known = ~truth.isnan()
            terms = F.binary_cross_entropy_with_logits(
                logits, truth.nan_to_num(0.0), reduction="none"
            )  # (D, K)
        total, n_known = (terms * known).sum(), int(known.sum())
        (gradient,) = torch.autograd.grad(total, logits)
        return total.item() / max(n_known, 1), Gradient(list(gradient), n_known)

    def truth(self, examples: Iterable[Example]) -> Tensor:
        """Read the annotation of some examples.

        examples (Iterable[Example]): The examples.
        RETURNS (Tensor): For each document and class 1 or 0, (D, K); NaN where it is missing.
        """
        annotated = (example.reference.cats for example in examples)
        return torch.tensor(
            [[cats.get(label, np.nan) for label in self.labels] for cats in annotated]
        )

    def update(self, examples: Iterable[Example], **kwargs: Any) -> dict[str, float]:
        """Learn from a batch of examples.

        examples (Iterable[Example]): The examples.
        RETURNS (dict[str, float]): The losses.

        DOCS: https://spacy.io/api/pipe#update
        """
        examples = list(examples)
        for example in examples:
            self.validate(example)
        return super().update(examples, **kwargs)

    def labels_of(self, example: Example) -> Iterable[str]:
        """RETURNS (Iterable[str]): The classes of an example."""
        self.validate(example)
        return example.reference.cats

    def validate(self, example: Example) -> None:
        """See to it that classes are annotated as this component takes them.

        example (Example): An example.
        RAISES (ValueError): If they are not.
        """
        # Other components may have classes of their own in the same document
        cats = example.reference.cats
        cats = {label: cats[label] for label in self.labels or cats if label in cats}
        if any(value not in (0.0, 1.0) for value in cats.values()):
            raise ValueError(f"The classes of a training document must be 0 or 1, not {cats}.")
        if self.exclusive and sum(cats.values()) > 1:
            raise ValueError(
                f"Component {self.name!r} has exclusive classes, and a training document belongs "
                f"to several: {cats}. Use albert_textcat_multilabel for such data."
            )

    def score(self, examples: Iterable[Example], **kwargs: Any) -> dict[str, Any]:
        """Score the documents that are annotated for this component: of the others, spaCy's scorer
        would count every answer as wrong.

        examples (Iterable[Example]): The examples, with predictions.
        RETURNS (dict[str, Any]): The scores.

        DOCS: https://spacy.io/api/pipe#score
        """
        annotated = [eg for eg in examples if not eg.reference.cats.keys().isdisjoint(self.labels)]
        return super().score(annotated, **kwargs)

    # Weights

    def make_weights(self, tok2vec: Model) -> None:
        """Make fresh weights, and take over the pooler that the encoder was pre-trained with."""
        super().make_weights(tok2vec)
        if len(self.labels) < self.n_least:
            raise ValueError(
                f"Component {self.name!r} chooses between classes and the data has only "
                f"{self.labels[0]!r}. Add the others, or use albert_textcat_multilabel."
            )
        head: Any = self.head.module
        head.pooler.load_state_dict(encoder_of(tok2vec).reader.model.pooler.state_dict())


class AlbertTextcatMultilabel(AlbertTextcat):
    """Text classification where any number of classes can be true: one score each in `doc.cats`,
    between 0 and 1.
    """

    exclusive = False
