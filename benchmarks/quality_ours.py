"""Fine-tuning through spacy-albert: what `spacy train` does with what `init-config` writes."""

import io
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import spacy
from spacy.language import Language
from spacy.tokens import DocBin
from spacy.training import Example
from spacy.training.initialize import init_nlp
from spacy.training.loop import train

from spacy_albert.checkpoints import load_checkpoint
from spacy_albert.configs import training_config

from .agreement import bare
from .quality_tasks import BY_NAME, CLIP, DECAY, DROPOUT, padding, plan, rows

READER, LOGGER = "benchmarks.planned.v1", "benchmarks.clock.v1"


class Ours:
    """A task, ready to be learned as often as asked."""

    def __init__(self, task: str, encoder: str, n_test: int | None):
        """Read the data.

        task (str): A name in BY_NAME.
        encoder (str): The directory to start from.
        n_test (int | None): How many test documents to score on; None: all.
        """
        self.task, self.encoder = BY_NAME[task], encoder
        docs = self.task.documents(spacy.blank("en"), Path(encoder))
        self.labels = self.task.labels(docs["train"])
        self.lengths = [len(row.ids) for row in rows(docs["train"], Path(encoder))]
        self.train, self.test = DocBin(docs=docs["train"]), docs["test"][:n_test]
        self.batches: list[list[int]] = []
        self.examples: dict[int, Example] = {}
        self.times: list[float] = []
        spacy.registry.readers(READER, func=lambda limit=None: partial(self._read, limit))
        spacy.registry.loggers(LOGGER, func=lambda: self._log)

    def about(self) -> dict[str, Any]:
        """RETURNS (dict): Sizes, the share of padding in the batches, and the learning rate that
        `init-config` sets for this encoder.
        """
        config = training_config([self.task.head], encoder=self.encoder)
        return {
            "train": len(self.lengths),
            "test": len(self.test),
            "labels": len(self.labels),
            "pieces": sum(self.lengths),
            "padding": padding(self.lengths, plan(self.lengths, self.task.batch, 100, seed=0)),
            "rate": config["training"]["optimizer"]["learn_rate"]["initial_rate"],
        }

    def learn(
        self, seed: int, steps: int, rate: float, warm_up: int, *, scratch: bool = False
    ) -> dict[str, float]:
        """Train a new pipeline, and score it.

        seed (int): Of the head's weights, of dropout, and of the order of documents.
        steps (int): Steps.
        rate (float): The highest learning rate.
        warm_up (int): Steps that it takes to get there; then it falls to 0.
        scratch (bool): Start from random weights in the shape of the encoder.
        RETURNS (dict[str, float]): Seconds of all steps but the first, the pieces read in them, and
            the score.
        """
        self.batches = plan(self.lengths, self.task.batch, steps, seed)
        self.examples, self.times = {}, []
        self.nlp = init_nlp(self.config(seed, steps, rate, warm_up, scratch))
        train(self.nlp, stdout=io.StringIO(), stderr=io.StringIO())
        found = list(self.nlp.pipe(map(bare, self.test)))
        return {
            "seconds": self.times[-1] - self.times[0],
            "pieces": sum(self.lengths[i] for batch in self.batches[1:] for i in batch),
            "score": self.task.score(self.test, found),
        }

    def config(self, seed: int, steps: int, rate: float, warm_up: int, scratch: bool) -> Any:
        """RETURNS (Config): The config of `init-config`, with what this benchmark sets."""
        config = training_config([self.task.head], encoder=self.encoder)
        config["components"]["albert"]["model"]["precision"] = "float32"
        starts = config["initialize"]["components"]
        starts[self.task.head] = {"labels": self.labels}
        starts["albert"]["encoder"]["dropout"] = None  # the checkpoint's, as in the plain loop
        if scratch:
            starts["albert"]["encoder"] = {
                "@misc": "spacy-albert.Scratch.v1",
                "vocabulary": self.encoder,
                "config": load_checkpoint(Path(self.encoder)).config.to_dict(),
            }
        # The loop takes a stream as it comes. It scores once, as it begins: on one document
        config["corpora"] = {
            "train": {"@readers": READER},
            "dev": {"@readers": READER, "limit": 1},
        }
        config["training"] |= {
            "seed": seed,
            "dropout": DROPOUT,
            "max_epochs": -1,
            "max_steps": steps - 1,  # the loop counts from 0, and includes it
            "eval_frequency": steps,
            "patience": 0,
            "logger": {"@loggers": LOGGER},
            "batcher": {"@batchers": "spacy.batch_by_sequence.v1", "size": self.task.batch},
        }
        config["training"]["optimizer"] |= {"L2": DECAY, "grad_clip": CLIP}
        config["training"]["optimizer"]["learn_rate"] |= {
            "initial_rate": rate,
            "warmup_steps": warm_up,
            "total_steps": steps,
        }
        return config

    def _read(self, limit: int | None, nlp: Language) -> Iterator[Example]:
        """Stream documents as planned, with the tokens that they have. As ever in `spacy train`,
        examples are made before it begins.
        """
        order = [i for batch in self.batches for i in batch]
        if not self.examples:
            docs = list(self.train.get_docs(nlp.vocab))
            self.examples = {i: Example(bare(docs[i]), docs[i]) for i in set(order)}
        examples = self.examples
        return (examples[i] for i in order[:limit])

    def _log(self, nlp: Language, stdout: Any, stderr: Any) -> tuple[Callable, Callable]:
        """Note when each step is done."""
        return lambda info: self.times.append(time.perf_counter()), lambda: None
