from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Model
from torch import Tensor

from ..inputs import bring
from ..layers import Gradient
from .textcat import AlbertTextcat


class AlbertPair(AlbertTextcat):
    """A document and a second text, `doc._.pair`: a score for each class in `doc.cats`, which sum
    to 1, or a number.
    """

    kind = "pair"
    architecture = "spacy-albert.PairClassifier.v1"

    def __init__(
        self,
        vocab: Any,
        model: Model,
        name: str = "albert_pair",
        *,
        threshold: float = 0.0,
        temperature: float = 1.0,
        regression: bool = False,
        scorer: Callable | None = None,
    ) -> None:
        """Make a component without classes.

        vocab (Vocab): The shared vocabulary.
        model (Model): From spacy-albert.PairClassifier.v1.
        name (str): The name of the component.
        threshold (float): What the best class must reach to count in scoring.
        temperature (float): What logits are divided by before they become scores; `calibrate`
            learns it.
        regression (bool): Give a number instead of classes: `doc.cats` has it under the one label.
        scorer (Callable | None): The scoring method of classes.
        RAISES (ValueError): If the model is not for this component, or the temperature none.
        """
        super().__init__(
            vocab, model, name, threshold=threshold, temperature=temperature, scorer=scorer
        )
        self.regression = regression
        self.can_be_calibrated = not regression
        self.head.inputs = self.second_text

    @property
    def n_least(self) -> int:
        """RETURNS (int): Classes that there must be; a number has one."""
        return 1 if self.regression else 2

    def second_text(self, doc: Doc) -> str:
        """Find the text that belongs to a document.

        doc (Doc): The document.
        RETURNS (str): The text.
        RAISES (ValueError): If there is none.
        """
        text = doc._.pair
        if isinstance(text, Doc):
            return text.text
        if not isinstance(text, str):
            raise ValueError(
                f"Component {self.name!r} reads two texts, and the document {doc.text[:60]!r} has "
                f"no second one: doc._.pair is {text!r}. Set it before the pipeline reads the "
                "document."
            )
        return text

    def make_weights(self, tok2vec: Model) -> None:
        """Make fresh weights, and take over the pooler that the encoder was pre-trained with."""
        if self.regression and len(self.labels) > 1:
            raise ValueError(
                f"Component {self.name!r} gives one number, and the data has {len(self.labels)} "
                f"labels: {', '.join(self.labels[:8])}. Keep one, or set `regression` to false."
            )
        super().make_weights(tok2vec)

    # From documents to annotations

    def interpret(self, docs: Sequence[Doc], answers: Sequence[Tensor]) -> list[np.ndarray]:
        """Turn the logits of some documents into scores.

        docs (Sequence[Doc]): The documents.
        answers (Sequence[Tensor]): Their logits, (K,) each.
        RETURNS (list[np.ndarray]): Probabilities, (K,) each; or the number, (1,).
        """
        if self.regression:
            return [answer.numpy() for answer in answers]
        return super().interpret(docs, answers)

    # Training

    def update(self, examples: Iterable[Example], **kwargs: Any) -> dict[str, float]:
        """Learn from a batch of examples.

        examples (Iterable[Example]): The examples.
        RETURNS (dict[str, float]): The losses.

        DOCS: https://spacy.io/api/pipe#update
        """
        examples = list(examples)
        bring(examples)
        return super().update(examples, **kwargs)

    def get_loss(self, examples: Iterable[Example], scores: list[Tensor]) -> tuple[float, Gradient]:
        """Compare with the gold classes as AlbertTextcat does, or with the gold number: the mean
        squared error.

        examples (Iterable[Example]): The examples. A document without annotation does not count.
        scores (list[Tensor]): Logits, (K,) each.
        RETURNS (tuple[float, Gradient]): The loss, and the way to a lower one.
        """
        if not self.regression:
            return super().get_loss(examples, scores)
        logits = torch.stack(scores).detach().requires_grad_()  # (D, 1)
        truth = self.truth(examples).to(logits)  # (D, 1)
        known = ~truth.isnan()
        total, n_known = (logits - truth)[known].square().sum(), int(known.sum())
        (gradient,) = torch.autograd.grad(total, logits)
        return total.item() / max(n_known, 1), Gradient(list(gradient), n_known)

    def validate(self, example: Example) -> None:
        """See to it that examples are annotated as this component takes them.

        example (Example): An example.
        RAISES (ValueError): If they are not.
        """
        if not self.regression:
            super().validate(example)

    def score(self, examples: Iterable[Example], **kwargs: Any) -> dict[str, Any]:
        """Score the documents that are annotated for this component.

        examples (Iterable[Example]): The examples, with predictions.
        RETURNS (dict[str, Any]): The scores; for numbers how they correlate with the annotated ones
            ("cats_score" after Pearson, "cats_spearman").

        DOCS: https://spacy.io/api/pipe#score
        """
        if not self.regression:
            return super().score(examples, **kwargs)
        (label,) = self.labels
        pairs = [
            (eg.predicted.cats[label], eg.reference.cats[label])
            for eg in examples
            if label in eg.predicted.cats and label in eg.reference.cats
        ]
        said, truth = np.array(pairs, dtype=float).reshape(-1, 2).T
        return {
            "cats_score": correlation(said, truth),
            "cats_score_desc": "Pearson's correlation",
            "cats_spearman": correlation(ranks(said), ranks(truth)),
        }


def correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """RETURNS (float | None): Pearson's correlation; None where it does not exist."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def ranks(values: np.ndarray) -> np.ndarray:
    """RETURNS (np.ndarray): The rank of each value; equal ones share the mean of theirs."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]
