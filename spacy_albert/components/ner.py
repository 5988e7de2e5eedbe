from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from spacy.attrs import ENT_IOB
from spacy.tokens import Doc, Span, SpanGroup
from spacy.training import Example
from thinc.api import Model
from torch import Tensor

from ..crf import crf_loss
from ..layers import Gradient
from ..tagging import MISSING, Tagset
from .pipe import AlbertHead


class Entity(NamedTuple):
    """An entity of a document."""

    start: int  # its first token
    end: int  # one past its last
    label: str
    score: float


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
        temperature: float = 1.0,
        bias: float = 0.0,
        loss: str = "tokens",
        scorer: Callable | None = None,
    ) -> None:
        """Make a recognizer without labels.

        vocab (Vocab): The shared vocabulary.
        model (Model): From spacy-albert.TokenClassifier.v1.
        name (str): The name of the component, and of the span group with the scores.
        threshold (float): Entities that score lower are dropped.
        temperature (float): What the log odds of an entity are divided by before they become its
            score; `calibrate` learns it.
        bias (float): What is added to them then; learned, too.
        loss (str): What it learns by: "tokens", the cross-entropy of each tag by itself, or "crf",
            the probability of the whole tagging among the valid ones.
        scorer (Callable | None): The scoring method.
        RAISES (ValueError): If there is no such loss.
        """
        super().__init__(
            vocab, model, name, threshold=threshold, temperature=temperature, scorer=scorer
        )
        if loss not in ("tokens", "crf"):
            raise ValueError(
                f"Component {name!r} has no loss {loss!r}. Choose from: 'tokens', 'crf'."
            )
        self.loss = loss
        self.cfg |= {"bias": bias, "tags": []}

    # From documents to annotations

    def predict(self, docs: Iterable[Doc]) -> list[list[Entity]]:
        """Find the entities, without touching the documents.

        docs (Iterable[Doc]): The documents.
        RETURNS (list[list[Entity]]): The entities of each.
        """
        docs = list(docs)
        return self.interpret(docs, self.answers(docs))

    def interpret(
        self, docs: Sequence[Doc], answers: Sequence[Tensor], **settings: float
    ) -> list[list[Entity]]:
        """Find the entities in the logits of some documents.

        docs (Sequence[Doc]): The documents.
        answers (Sequence[Tensor]): Their logits, (T, K) each.
        **settings: A temperature, bias or threshold other than the component's own.
        RETURNS (list[list[Entity]]): The entities of each.
        """
        if not docs:
            return []
        settings = {**self.cfg, **settings}
        logits = torch.cat(list(answers)).numpy()  # (T, K): one document after the other
        edges = np.cumsum([0, *map(len, docs)])  # (D + 1,)
        preset = np.zeros(len(logits), dtype=bool)
        for doc, edge in zip(docs, edges):
            if tokens := preset_tokens(doc):
                preset[edge + np.array(tokens)] = True
        readable = np.flatnonzero(~np.isnan(logits[:, 0]))
        lengths = np.diff(np.searchsorted(readable, edges))
        found = self.tagset.decode(logits[readable], lengths, preset[readable])
        log_odds = torch.from_numpy(found.scores).logit() / settings["temperature"]
        scores = (log_odds + settings["bias"]).sigmoid().numpy()
        # Count in all tokens, not in readable ones; drop what scores too low or is taken
        starts, ends = readable[found.starts], readable[found.ends - 1] + 1
        n_preset = np.append(0, np.cumsum(preset))
        keep = (scores >= settings["threshold"]) & (n_preset[starts] == n_preset[ends])
        owners = np.searchsorted(edges, starts, side="right") - 1
        columns = owners, starts - edges[owners], ends - edges[owners], found.labels, scores
        entities: list[list[Entity]] = [[] for _ in docs]
        for owner, start, end, label, score in zip(*(column[keep].tolist() for column in columns)):
            entities[owner].append(Entity(start, end, self.tagset.labels[label], score))
        return entities

    def set_annotations(self, docs: Iterable[Doc], predictions: Iterable[list[Entity]]) -> None:
        """Write entities into `doc.ents`, and their scores into `ent._.score` and
        `doc.spans[name].attrs["scores"]`. Entities that were there before stay.

        docs (Iterable[Doc]): The documents.
        predictions (Iterable[list[Entity]]): From `predict`.
        """
        for doc, found in zip(docs, predictions):
            ents, scores = [], {}
            for start, end, label, score in found:
                ent = Span(doc, start, end, label=label)
                ent._.score = scores[start, end] = score
                ents.append(ent)
            taken = preset_tokens(doc)
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

    def get_loss(self, examples: Iterable[Example], scores: list[Tensor]) -> tuple[float, Gradient]:
        """Compare with the gold tags: cross-entropy or a CRF, divided by the annotated tokens.

        examples (Iterable[Example]): The examples; tokens with missing annotation do not count, and
            to a CRF may have any tag.
        scores (list[Tensor]): Logits, (T, K) each.
        RETURNS (tuple[float, Gradient]): The loss, and the way to a lower one.
        """
        logits = [answer.detach().requires_grad_() for answer in scores]
        readable, gold = [], []
        for example, answer in zip(examples, logits):
            seen = (~answer[:, 0].isnan()).nonzero()[:, 0]
            tags = self.tagset.encode(example.get_aligned_ner(), seen.cpu().numpy())
            readable.append(answer[seen])
            gold.append(torch.from_numpy(tags).to(answer.device))
        if self.loss == "crf":
            total = crf_loss(self.tagset, readable, gold)
        else:
            total = F.cross_entropy(
                torch.cat(readable), torch.cat(gold), ignore_index=MISSING, reduction="sum"
            )
        gradient = torch.autograd.grad(total, logits)
        n_annotated = int((torch.cat(gold) != MISSING).sum())
        return total.item() / max(n_annotated, 1), Gradient(list(gradient), n_annotated)

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


def preset_tokens(doc: Doc) -> list[int]:
    """Find the tokens that earlier components made part of an entity, or blocked.

    doc (Doc): The document.
    RETURNS (list[int]): The numbers of the tokens.
    """
    if not doc.has_annotation("ENT_IOB"):  # as a rule, and much faster than the rest
        return []
    iob = doc.to_array([ENT_IOB]).reshape(len(doc))
    return np.flatnonzero((iob == 1) | (iob == 3)).tolist()
