"""Pre-training: our trainer, and a plain loop over `AlbertForPreTraining`, on the same examples."""

import gzip
import json
import time
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from spacy_albert.checkpoints import load_checkpoint, save_checkpoint
from spacy_albert.engine import choose_for_training
from spacy_albert.pretraining.batches import Example
from spacy_albert.pretraining.checkpoints import heads_of, load_weights
from spacy_albert.pretraining.corpus import Corpus, write_shard
from spacy_albert.pretraining.objectives import PreTraining
from spacy_albert.pretraining.settings import read_shape
from spacy_albert.pretraining.trainer import Trainer
from spacy_albert.tokenization import load_tokenizer
from spacy_albert_jobs.prepare import divide, sentencizer
from spacy_albert_jobs.pretrain import load_config, read_config

from . import texts
from .quality_plain import adamw, padded

CONFIG = "pretrain_small.cfg"
SHARD, START = "corpus.arrow", "start"
IGNORED = -100
PART = 16  # sequences that the loop has in memory at once: faster than 8, and than a whole batch


def prepare(encoder: str, folder: str, articles: int) -> dict[str, Any]:
    """Write down what both sides begin with: a corpus, and random weights.

    encoder (str): The directory with the tokenizer.
    folder (str): Where they go.
    articles (int): How many articles of Wikipedia to take.
    RETURNS (dict): The shape of the model, the settings, the pieces of the corpus, and the
        precisions that can be had: the last one is that of `pretrain`.
    """
    tokenizer, nlp = load_tokenizer(Path(encoder)), sentencizer("en")
    with gzip.open(texts.DATA / "text_wiki_squad" / "wiki_squad.jsonl.gz", "rt") as lines:
        read = ["\n".join(json.loads(line)["paragraphs"]) for line in islice(lines, articles)]
    documents = [list(divide(text, nlp, tokenizer)) for text in read]
    write_shard(Path(folder, SHARD), documents, {})
    model, _, settings = read_config(load_config(CONFIG))
    shape = read_shape(model, tokenizer.size)
    torch.manual_seed(0)
    fresh = PreTraining(shape)
    start = Path(folder, START)
    start.mkdir()
    save_checkpoint(start, shape, fresh.albert.state_dict(), heads_of(fresh))
    tokenizer.save(start)
    own = str(choose_for_training("cpu", settings.precision)).removeprefix("torch.")
    return {
        "shape": shape.to_dict(),
        "length": settings.length,
        "batch": settings.batch,
        "pieces": sum(len(ids) for sentences in documents for ids in sentences),
        "precisions": list(dict.fromkeys(["float32", own])),
    }


def trainer_of(folder: str, precision: str, steps: int) -> Trainer:
    """Make what `pretrain` makes.

    folder (str): From `prepare`.
    precision (str): "float32" or "bfloat16".
    steps (int): Steps.
    RETURNS (Trainer): A trainer that has not begun.
    """
    _, _, settings = read_config(load_config(CONFIG))
    start = Path(folder, START)
    checkpoint = load_checkpoint(start)
    model = PreTraining(checkpoint.config, getattr(torch, precision))
    load_weights(model, checkpoint)
    settings = replace(settings, steps=steps, warm_up=steps // 2, precision=precision)
    return Trainer(model, load_tokenizer(start), Corpus([Path(folder, SHARD)]), settings)


@dataclass
class Side:
    """One of the two.

    folder (str): From `prepare`.
    precision (str): "float32" or "bfloat16".
    """

    folder: str
    precision: str


class Ours(Side):
    """The trainer."""

    def learn(self, steps: int) -> dict[str, float]:
        """Pre-train a new model for a while.

        steps (int): Steps.
        RETURNS (dict[str, float]): Seconds of all steps but the first, the pieces read in them, and
            the loss of the last.
        """
        times, found = [], []
        for figures in trainer_of(self.folder, self.precision, steps).steps():
            times.append(time.perf_counter())
            found.append(figures)
        return {
            "seconds": times[-1] - times[0],
            "pieces": sum(figures.pieces for figures in found[1:]),
            "loss": found[-1].loss,
        }


class Plain(Side):
    """The peer: batches are made beforehand, padded, and pieces are scored everywhere."""

    def learn(self, steps: int) -> dict[str, float]:
        """As in Ours."""
        trainer = trainer_of(self.folder, self.precision, steps)
        settings = trainer.settings
        batches = [
            [trainer.examples.example(one) for one in trainer.sequences.take(settings.batch)]
            for _ in range(steps)
        ]
        parts = [
            [shown_and_asked(batch[i : i + PART]) for i in range(0, len(batch), PART)]
            for batch in batches
        ]
        model = transformers.AlbertForPreTraining.from_pretrained(
            Path(self.folder, START), attn_implementation="sdpa", torch_dtype=torch.float32
        ).train()
        optimizer = adamw(model, settings.rate, betas=(0.9, 0.98), eps=1e-6)
        times, losses = [], []
        for step, batch in enumerate(parts, start=1):
            for group in optimizer.param_groups:
                group["lr"] = settings.rate_at(step)
            for inputs in batch:
                with torch.autocast("cpu", torch.bfloat16, self.precision == "bfloat16"):
                    loss = loss_of(model, **inputs) / len(batch)
                loss.backward()
                losses.append(loss.item())
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
            optimizer.step()
            optimizer.zero_grad()
            times.append(time.perf_counter())
        return {
            "seconds": times[-1] - times[0],
            "pieces": sum(len(example.ids) for batch in batches[1:] for example in batch),
            "loss": sum(losses[-len(parts[-1]) :]),
        }


def loss_of(
    model: Any, labels: torch.Tensor, sentence_order_label: torch.Tensor, **inputs: torch.Tensor
) -> torch.Tensor:
    """Compute the loss of AlbertForPreTraining, which itself gives NaN where no order is asked.

    model (AlbertForPreTraining): The model.
    labels (Tensor): The hidden pieces, IGNORED elsewhere, (B, S).
    sentence_order_label (Tensor): The orders, IGNORED where none is asked, (B,).
    **inputs (Tensor): What the model is shown.
    RETURNS (Tensor): The loss.
    """
    said = model(**inputs)
    loss = cross_entropy(said.prediction_logits.flatten(0, 1), labels.flatten())
    if (sentence_order_label != IGNORED).any():
        loss = loss + cross_entropy(said.sop_logits, sentence_order_label)
    return loss


def shown_and_asked(examples: list[Example]) -> dict[str, torch.Tensor]:
    """Pad some examples.

    examples (list[Example]): The examples.
    RETURNS (dict[str, Tensor]): The arguments of AlbertForPreTraining.
    """
    segments, labels = [], []
    for example in examples:
        segments.append((torch.arange(len(example.ids)) >= example.border).long())
        label = torch.full((len(example.ids),), IGNORED)
        label[example.places] = torch.from_numpy(example.answers).long()
        labels.append(label)
    return {
        **padded([example.ids for example in examples]),
        "token_type_ids": pad_sequence(segments, True, 0),
        "labels": pad_sequence(labels, True, IGNORED),
        "sentence_order_label": torch.tensor([example.order for example in examples]),
    }
