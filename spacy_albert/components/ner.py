from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from spacy.attrs import ENT_IOB
from spacy.tokens import Doc, Span, SpanGroup
from spacy.training import Example
from thinc.api import Model
from torch import Tensor

from ..tagging import MISSING, Entities, Tagset
from .pipe import AlbertHead


class AlbertNER(AlbertHead):
    """Named entities: a tag for every token, the best valid tagging, a score for every entity."""

    kind = "tokens"
    architecture = "spacy-albert.TokenClassifier.v1"

    def __init__(
        self,
        vocab: Any,
        model: Model,
        name: str = "albert_ner",
        *,
        threshold: float = 0.0,
        scorer: Callable | None = None,
    ) -> None:
        """Make a recognizer without labels.

        vocab (Vocab): The shared vocabulary.
        model (Model): From spacy-albert.TokenClassifier.v1.
        name (str): The name of the component, and of the span group with the scores.
        threshold (float): Entities that score lower are dropped.
        scorer (Callable | None): The scoring method.
        """
        super().__init__(vocab, model, name, threshold=threshold, scorer=scorer)
        self.cfg["tags"] = []

    # From documents to annotations

    def predict(self, docs: Iterable[Doc]) -> list[Entities]:
        """Find the entities, without touching the documents.

        docs (Iterable[Doc]): The documents.
        RETURNS (list[Entities]): The entities of each, in tokens.
        """
        docs = list(docs)
        logits = [answer.numpy() for answer in self.answers(docs)]  # (T, K) each
        readable = [np.flatnonzero(~np.isnan(scores[:, 0])) for scores in logits]
        preset = [preset_tokens(doc) for doc in docs]
        decoded = self.tagset.decode(
            [scores[seen] for scores, seen in zip(logits, readable)],
            [tokens[seen] for tokens, seen in zip(preset, readable)],
        )
        return [
            self._in_tokens(entities, seen, taken)
            for entities, seen, taken in zip(decoded, readable, preset)
        ]

    def _in_tokens(self, entities: Entities, seen: np.ndarray, taken: np.ndarray) -> Entities:
        """Count in all tokens, not in readable ones; drop what scores too low or is taken."""
        starts, ends = seen[entities.starts], seen[entities.ends - 1] + 1
        n_taken = np.concatenate([[0], np.cumsum(taken)])
        keep = (entities.scores >= self.cfg["threshold"]) & (n_taken[ends] == n_taken[starts])
        return Entities(starts[keep], ends[keep], entities.labels[keep], entities.scores[keep])

    def set_annotations(self, docs: Iterable[Doc], predictions: Iterable[Entities]) -> None:
        """Write entities into `doc.ents`, and their scores into `ent._.score` and
        `doc.spans[name].attrs["scores"]`. Entities that were there before stay.

        docs (Iterable[Doc]): The documents.
        predictions (Iterable[Entities]): From `predict`.
        """
        labels = [self.vocab.strings[label] for label in self.tagset.labels]
        for doc, found in zip(docs, predictions):
            columns = (found.starts, found.ends, found.labels, found.scores)
            ents, scores = [], {}
            for start, end, label, score in zip(*(column.tolist() for column in columns)):
                ent = Span(doc, start, end, label=labels[label])
                ent._.score = scores[start, end] = score
                ents.append(ent)
            taken = preset_tokens(doc).nonzero()[0].tolist()
            if taken:  # some of it perhaps by this component, in an earlier run
                before = doc.spans.get(self.name, SpanGroup(doc))
                scores |= zip(((e.start, e.end) for e in before), before.attrs.get("scores", ()))
                ents = sorted([*doc.ents, *ents], key=lambda ent: ent.start)
            blocked = [doc[i : i + 1] for i in taken if not doc[i].ent_type]
            doc.set_ents(ents, blocked=blocked, default="outside")
            mine = [ent for ent in ents if (ent.start, ent.end) in scores]
            attrs = {"scores": np.array([scores[e.start, e.end] for e in mine], dtype="f")}
            doc.spans[self.name] = SpanGroup(doc, name=self.name, spans=mine, attrs=attrs)

    # Training

    def get_loss(
        self, examples: Iterable[Example], scores: list[Tensor]
    ) -> tuple[float, list[Tensor]]:
        """Compare with the gold tags: mean cross-entropy over the annotated tokens.

        examples (Iterable[Example]): The examples; tokens with missing annotation do not count.
        scores (list[Tensor]): Logits, (T, K) each.
        RETURNS (tuple[float, list[Tensor]]): The loss, and its gradient by the logits.
        """
        logits = [answer.detach().requires_grad_() for answer in scores]
        readable, gold = [], []
        for example, answer in zip(examples, logits):
            seen = (~answer[:, 0].isnan()).nonzero()[:, 0]
            tags = self.tagset.encode(example.get_aligned_ner(), seen.cpu().numpy())
            readable.append(answer[seen])
            gold.append(torch.from_numpy(tags).to(answer.device))
        targets = torch.cat(gold)
        n_annotated = int((targets != MISSING).sum())
        total = F.cross_entropy(torch.cat(readable), targets, ignore_index=MISSING, reduction="sum")
        loss = total / max(n_annotated, 1)
        return loss.item(), list(torch.autograd.grad(loss, logits))

    def labels_of(self, example: Example) -> Iterable[str]:
        """RETURNS (Iterable[str]): The entity labels of an example."""
        return (ent.label_ for ent in example.reference.ents)

    # Labels and tags

    @property
    def tagset(self) -> Tagset:
        """RETURNS (Tagset): The tags that the head scores, in its order."""
        if self._tagset is None:
            self._require_labels()
            self._tagset = Tagset(self.cfg["tags"])
        return self._tagset

    _tagset: Tagset | None = None

    @property
    def n_classes(self) -> int:
        """RETURNS (int): Outputs of the head: the tags."""
        return len(self.cfg["tags"])

    def set_tags(self, tags: list[str]) -> None:
        """Take over the tags of a trained classifier, in its order.

        tags (list[str]): Tags of any scheme; see Tagset.
        """
        self.cfg["tags"] = list(tags)
        self.cfg["labels"] = list(Tagset(tags).labels)
        self._loaded()

    def _loaded(self) -> None:
        labels, tags = self.cfg["labels"], self.cfg["tags"]
        for label in labels:
            if not tags:
                tags.extend(Tagset.from_labels([label]).tags)
            elif label not in Tagset(tags).labels:
                tags[:] = Tagset(tags).with_label(label).tags
        self._tagset = None
        super()._loaded()


def preset_tokens(doc: Doc) -> np.ndarray:
    """Find the tokens that earlier components made part of an entity, or blocked.

    doc (Doc): The document.
    RETURNS (np.ndarray): (T,) bool.
    """
    iob = doc.to_array([ENT_IOB]).reshape(len(doc))
    return (iob == 1) | (iob == 3)
