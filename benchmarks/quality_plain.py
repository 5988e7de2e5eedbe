"""The peer: fine-tuning in a plain loop over the models of `transformers`, without spaCy."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import spacy
import torch
import transformers
from numpy.typing import ArrayLike
from spacy.tokens import Doc, Span
from torch.nn.utils.rnn import pad_sequence

from spacy_albert.corpora import entities

from .agreement import bare
from .quality_tasks import BY_NAME, CLIP, DECAY, DROPOUT, Row, plan, rows

IGNORED = -100
TEST_BATCH = 64


class Plain:
    """A task, ready to be learned as often as asked."""

    def __init__(self, task: str, encoder: str, n_test: int | None):
        """Read the data, and tokenise it.

        task (str): A name in BY_NAME.
        encoder (str): The directory to start from.
        n_test (int | None): How many test documents to score on; None: all.
        """
        self.task, self.encoder = BY_NAME[task], encoder
        docs = self.task.documents(spacy.blank("en"), Path(encoder))
        self.labels = self.task.labels(docs["train"])
        if self.task.head == "ner":
            self.labels = ["O", *(f"{role}-{label}" for label in self.labels for role in "BI")]
        self.test = docs["test"][:n_test]
        self.test_rows = rows(self.test, Path(encoder))
        self.train = rows(docs["train"], Path(encoder))
        self.targets = [self._target(*pair) for pair in zip(self.train, docs["train"])]
        self.lengths = [len(row.ids) for row in self.train]

    def learn(self, seed: int, steps: int, rate: float, warm_up: int) -> dict[str, float]:
        """Train a new model, and score it.

        seed (int): Of the head's weights, of dropout, and of the order of documents.
        steps (int): Steps.
        rate (float): The highest learning rate.
        warm_up (int): Steps that it takes to get there; then it falls to 0.
        RETURNS (dict[str, float]): Seconds of all steps but the first, the pieces read in them, and
            the score.
        """
        torch.manual_seed(seed)
        self.model = self._model().train()
        optimizer = adamw(self.model, rate)
        schedule = transformers.get_linear_schedule_with_warmup(optimizer, warm_up, steps)
        batches = plan(self.lengths, self.task.batch, steps, seed)
        times = []
        for batch in batches:
            targets = self._stack([self.targets[i] for i in batch])
            inputs = padded([self.train[i].ids for i in batch])
            self.model(**inputs, labels=targets).loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            times.append(time.perf_counter())
        return {
            "seconds": times[-1] - times[0],
            "pieces": sum(self.lengths[i] for batch in batches[1:] for i in batch),
            "score": self.task.score(self.test, self._answers()),
        }

    def _model(self) -> Any:
        name = {
            "ner": "AlbertForTokenClassification",
            "textcat": "AlbertForSequenceClassification",
            "textcat_multilabel": "AlbertForSequenceClassification",
        }[self.task.head]
        return getattr(transformers, name).from_pretrained(
            self.encoder,
            num_labels=len(self.labels),
            problem_type={"textcat_multilabel": "multi_label_classification"}.get(self.task.head),
            classifier_dropout_prob=DROPOUT,
            attn_implementation="sdpa",
            torch_dtype=torch.float32,
        )

    def _target(self, row: Row, doc: Doc) -> torch.Tensor:
        """What a document teaches: the tags of first pieces, its class, or all its classes."""
        if self.task.head == "ner":
            target = torch.full((len(row.ids),), IGNORED)
            for first, token in zip(row.firsts, doc):
                if first >= 0:
                    tag = f"{token.ent_iob_}-{token.ent_type_}" if token.ent_type else "O"
                    target[first] = self.labels.index(tag)
            return target
        truth = torch.tensor([doc.cats[label] for label in self.labels])
        return truth if self.task.head == "textcat_multilabel" else truth.argmax()

    def _stack(self, targets: list[torch.Tensor]) -> torch.Tensor:
        is_ner = self.task.head == "ner"
        return pad_sequence(targets, True, IGNORED) if is_ner else torch.stack(targets)

    @torch.inference_mode()
    def _answers(self) -> list[Doc]:
        """The test documents with what the model says of them."""
        self.model.eval()
        docs = [bare(doc) for doc in self.test]
        order = sorted(range(len(docs)), key=lambda i: -len(self.test_rows[i].ids))
        for start in range(0, len(order), TEST_BATCH):
            batch = order[start : start + TEST_BATCH]
            logits = self.model(**padded([self.test_rows[i].ids for i in batch])).logits
            for i, scores in zip(batch, logits):
                self._annotate(docs[i], self.test_rows[i], scores)
        return docs

    def _annotate(self, doc: Doc, row: Row, scores: torch.Tensor) -> None:
        if self.task.head == "ner":
            best = scores.argmax(1).tolist()
            tags = [self.labels[best[i]] if i >= 0 else "O" for i in row.firsts]
            doc.set_ents([Span(doc, *where) for where in entities(tags)])
        else:
            is_multi = self.task.head == "textcat_multilabel"
            chances = scores.sigmoid() if is_multi else scores.softmax(0)
            doc.cats = dict(zip(self.labels, chances.tolist()))


def adamw(model: torch.nn.Module, rate: float, **settings: Any) -> torch.optim.Optimizer:
    """Make the optimizer of a plain loop: biases and LayerNorms do not decay.

    model (Module): The model.
    rate (float): The highest learning rate.
    **settings: Others, if they are not torch's own.
    RETURNS (Optimizer): The optimizer.
    """
    weights = list(model.parameters())
    groups = [
        {"params": [w for w in weights if w.ndim > 1], "weight_decay": DECAY},
        {"params": [w for w in weights if w.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, fused=True, **settings)


def padded(batch: Sequence[ArrayLike]) -> dict[str, torch.Tensor]:
    """Pad some rows to the longest of them.

    batch (Sequence[ArrayLike]): Ids, (S,) each.
    RETURNS (dict[str, Tensor]): The arguments of a model, (B, S) each.
    """
    ids = [torch.tensor(row) for row in batch]
    mask = [torch.ones_like(row) for row in ids]
    return {
        "input_ids": pad_sequence(ids, True, 0),
        "attention_mask": pad_sequence(mask, True, 0),
    }
