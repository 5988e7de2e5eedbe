"""spacy-albert, as its users get it: `nlp.pipe` with the settings it has by default.

This is the one module here that knows the inside of spacy_albert.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import spacy
import torch
from spacy.language import Language

from spacy_albert import heads
from spacy_albert.batching import batches
from spacy_albert.checkpoints import load_checkpoint
from spacy_albert.components.encoder import AlbertEncoder
from spacy_albert.components.ner import AlbertNER
from spacy_albert.components.textcat import AlbertTextcat
from spacy_albert.convert import add_head
from spacy_albert.engine import Engine
from spacy_albert.heads import TextHead, TokenHead
from spacy_albert.reader import Reader
from spacy_albert.reading import first_entries
from spacy_albert.texts import texts_of

from .peers import Prepare, Run


def entities_and_classes(checkpoint: Path, precision: str) -> Prepare:
    """`nlp.pipe` with an encoder, entities and text classification."""
    return Ours(pipeline(checkpoint, precision, ["ner", "textcat"]))


def entities(checkpoint: Path, precision: str) -> Prepare:
    """`nlp.pipe` with an encoder and entities: what does a second head cost?"""
    return Ours(pipeline(checkpoint, precision, ["ner"]))


class Ours:
    """A pipeline as a contender."""

    def __init__(self, nlp: Language):
        """Take a pipeline.

        nlp (Language): The pipeline.
        """
        self.nlp = nlp

    def __call__(self, texts: list[str]) -> Run:
        """Prepare nothing: everything from the text on counts."""
        return lambda: sum(len(doc.ents) for doc in self.nlp.pipe(texts))

    def about(self, texts: list[str]) -> dict[str, Any]:
        """Tell what was chosen for this machine.

        texts (list[str]): What is going to be read.
        RETURNS (dict): The executor, and the share of padding in the batches of these texts.
        """
        return {
            "executor": str(reader(self.nlp).engine.choice),
            "padding": padding(self.nlp, texts),
        }


def pipeline(checkpoint: Path, precision: str, heads: list[str], device: str = "auto") -> Language:
    """Make a pipeline of the checkpoint.

    checkpoint (Path): From `checkpoint.make`.
    precision (str): The precision of the encoder.
    heads (list[str]): Of "ner" and "textcat".
    device (str): The device of the encoder.
    RETURNS (Language): The pipeline, ready to annotate.
    """
    nlp = spacy.blank("en")
    encoder: Any = nlp.add_pipe(
        "albert", config={"model": {"precision": precision, "device": device}}
    )
    encoder.initialize(list, encoder=lambda shim: shim.load(checkpoint))
    for name in heads:
        head: Any = nlp.add_pipe(f"albert_{name}", name=name)
        if name == "ner":
            add_head(head, load_checkpoint(checkpoint))
        else:
            head.initialize(
                lambda: [spacy.training.Example.from_dict(nlp.make_doc("x"), {})],
                labels=["POSITIVE", "NEGATIVE"],
            )
    return nlp


def load(path: Path, precision: str, device: str = "auto") -> Language:
    """Load a trained pipeline in some precision.

    path (Path): A saved pipeline with an ALBERT encoder.
    precision (str): The precision of the encoder.
    device (str): The device of the encoder.
    RETURNS (Language): The pipeline.
    """
    config = spacy.util.load_config(path / "config.cfg")
    names = [n for n, pipe in config["components"].items() if pipe["factory"] == "albert"]
    settings = {"precision": precision, "device": device}
    overrides = {f"components.{n}.model.{key}": settings[key] for n in names for key in settings}
    return spacy.load(path, config=overrides)


def reader(nlp: Language) -> Reader:
    """RETURNS (Reader): The reader in the encoder of a pipeline."""
    encoder: Any = next(p for n, p in nlp.pipeline if nlp.get_pipe_meta(n).factory == "albert")
    return encoder.model.shims[0].reader


def texts_of_one_window(nlp: Language, text: str) -> list[str]:
    """Cut a text between tokens, so that each part all but fills a window.

    nlp (Language): The pipeline.
    text (str): The text.
    RETURNS (list[str]): The parts.
    """
    doc, read = nlp.make_doc(text), reader(nlp)
    reading = read.prepare(texts_of([doc]))
    first = np.zeros(len(doc), dtype=int)  # piece of each token
    first[reading.token_counts > 0] = reading.token_pieces[first_entries(reading.token_counts)]
    # A text of its own may begin with other pieces than in the middle of another one
    part = np.maximum.accumulate(first) // (read.window - 10)
    cuts = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(doc)]
    return [doc[start:stop].text_with_ws for start, stop in pairwise(cuts)]


def padding(nlp: Language, texts: list[str]) -> dict[str, float]:
    """Compute how much of what is computed is padding.

    nlp (Language): The pipeline.
    texts (list[str]): What it reads in one look ahead.
    RETURNS (dict[str, float]): The share of "rows" in matrix products, and of "places" in
        attention, that hold no piece.
    """
    read = reader(nlp)
    reading = read.prepare(texts_of([nlp.make_doc(text) for text in texts]))
    lengths = reading.window_stops - reading.window_starts + 2
    budget = read.engine.budget(read.window)
    aligned = read.engine._current().aligned
    groups = [lengths[batch] for batch in batches(lengths, budget)]
    rows = sum(_round_up(int(group.sum()), aligned) for group in groups)
    places = sum(_round_up(int(group.max()), aligned) * len(group) for group in groups)
    pieces = int(lengths.sum())
    return {"rows": 1 - pieces / rows, "places": 1 - pieces / places}


def _round_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit


class Recording:
    """An executor in place of a pipeline's own: one that keeps the states it computes, then one
    that gives them back and computes nothing. So the rest of the way is measured on real answers.
    """

    def __init__(self, nlp: Language):
        """Record what the layers of a pipeline compute from now on.

        nlp (Language): The pipeline.
        """
        self.nlp = nlp
        self.executor = reader(nlp).engine._current()
        self.states: list[torch.Tensor] = []
        self._next = 0
        self.put_into(nlp)

    def put_into(self, nlp: Language) -> None:
        """Stand for the layers of a pipeline.

        nlp (Language): The pipeline that records, or another copy of it.
        """
        self._next = 0
        reader(nlp).engine._current = lambda lanes=1: self  # type: ignore[method-assign,assignment,return-value]

    def embed(self, *args: torch.Tensor) -> torch.Tensor:
        """Embed as ever."""
        return self.executor.embed(*args)

    def __call__(self, hidden: torch.Tensor, lengths: np.ndarray) -> torch.Tensor:
        """Give the states of the next batch."""
        if self._next == len(self.states):
            self.states.append(self.executor(hidden, lengths))
        self._next += 1
        return self.states[self._next - 1]


def stages(nlp: Language) -> list[tuple[str, Any, str]]:
    """List the functions that make up the way of a text, with the stage that each belongs to.

    nlp (Language): A pipeline with entities and text classification.
    RETURNS (list[tuple]): Stage, owner and name of the function. The time of a function is its own,
        without that of those it calls and that are listed, too.
    """
    tokenizer = type(reader(nlp).tokenizer)
    return [
        ("spaCy's tokenizer", nlp, "make_doc"),
        ("tokens", heads, "texts_of"),
        ("pieces", tokenizer, "__call__"),
        ("alignment, windows", Reader, "prepare"),
        ("batches", Reader, "read"),
        ("embedding", Engine, "__call__"),
        ("the layers (stubbed)", Recording, "__call__"),
        *(
            ("heads, pooling", head, function)
            for head in (TokenHead, TextHead)
            for function in ("forward", "pool", "split")
        ),
        ("handing over", AlbertEncoder, "set_annotations"),
        ("decoding", AlbertNER, "predict"),
        ("decoding", AlbertTextcat, "predict"),
        ("writing", AlbertNER, "set_annotations"),
        ("writing", AlbertTextcat, "set_annotations"),
    ]
