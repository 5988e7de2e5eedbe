"""The whole way of a batch of documents through ALBERT: text, pieces, windows, batches, states.

What comes out is not the states but what heads make of them. ALBERT reads once; each head looks at
every batch of states while it is there, and keeps a few numbers a piece. So a document of any
length costs memory for its labels, not for its states, and a second head costs next to nothing.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from spacy.tokens import Doc
from torch import Tensor

from .alignment import expand
from .batching import Batch, batches, fill
from .engine import Engine, is_out_of_memory
from .heads import means
from .modeling import Albert
from .reading import Reading, Texts, prepare, prepare_pairs, prepare_questions
from .tokenization import Tokenizer
from .transfer import to_device

#: Questions whose pieces are kept, so that one asked of every document is divided once.
KEPT_QUESTIONS = 4096


class Whole(NamedTuple):
    """The windows of a batch, whole."""

    states: Tensor  # (N, H)
    lengths: np.ndarray  # (B,) positions of each window; they sum to N
    text_starts: np.ndarray  # (B,) positions in each window before its text


class Readout(Protocol):
    """What a head does with states: a small function of each row, and how rows become answers."""

    #: Whose states it is called with: those of the "pieces", of the [CLS] of "windows", the "means"
    #: over the pieces that each window owns, "all" pieces and then the [CLS] of all windows, or all
    #: "positions" of the windows as they come; or else "whole" windows (Whole), to give a row each.
    unit: str
    #: Whether it reads documents together with something else, so that nobody reads along.
    reads_alone: bool

    def prepare(self, reader: "Reader", docs: Sequence[Doc]) -> Reading:
        """Say how documents are to be read."""

    def __call__(self, states: Any) -> Tensor:
        """(N, H) -> (N, K), every row on its own."""

    def pool(self, rows: Tensor, reading: Reading) -> Tensor:
        """(U, K), one row a unit -> one row for each of what the head is about."""

    def split(self, rows: Tensor, reading: Reading) -> list[Any]:
        """What `pool` gave -> one tensor a document, or whatever else it understands."""

    def fits(self, answer: Any, doc: Doc) -> bool:
        """Whether what `split` gave is about a document as it is now."""


class Reader:
    """ALBERT with its tokenizer, ready to read documents of any length."""

    def __init__(
        self,
        model: Albert,
        tokenizer: Tokenizer,
        *,
        window: int | None = None,
        overlap: int = 32,
        batch_pieces: int | None = None,
        device: str = "auto",
        precision: str = "auto",
        training_precision: str = "float32",
    ):
        """Put an encoder and a tokenizer together.

        model (Albert): The encoder.
        tokenizer (Tokenizer): The tokenizer it was trained with.
        window (int | None): The most pieces it sees at once, [CLS] and [SEP] included. None: as
            many as the model has positions.
        overlap (int): Pieces that neighbouring windows of a longer text share.
        batch_pieces (int | None): The most pieces in a batch, padding included. None: as many as
            the device is best at, and has memory for.
        device (str): "auto", "cpu", "cuda", "cuda:N" or "mps".
        precision (str): "auto", "float32", "bfloat16" or "int8".
        training_precision (str): "auto", "float32" or "bfloat16".
        RAISES (ValueError): If the settings do not fit the model or the machine.
        """
        config = model.config
        if tokenizer.size > config.vocab_size:
            raise ValueError(
                f"The vocabulary has {tokenizer.size} pieces and the model embeds only "
                f"{config.vocab_size}: they are not from one checkpoint."
            )
        window = config.max_position_embeddings if window is None else window
        if not 5 <= window <= config.max_position_embeddings:
            raise ValueError(
                f"window = {window} does not fit this model: it takes 5 to "
                f"{config.max_position_embeddings} pieces. Set it to null for all it takes."
            )
        if not 0 <= overlap * 3 <= window - 2:
            raise ValueError(
                f"overlap = {overlap} does not fit windows of {window} pieces: it may be 0 to "
                f"{(window - 2) // 3}, a third of the text in a window."
            )
        if batch_pieces is not None and batch_pieces < window:
            raise ValueError(
                f"batch_pieces = {batch_pieces} is less than one window of {window} pieces. "
                f"Raise it, set it to null for what suits the device, or set a smaller window."
            )
        self.model = model
        self.tokenizer = tokenizer
        self.window = window
        self.overlap = overlap
        self.engine = Engine(model, device, precision, batch_pieces, training_precision)
        self._questions: dict[str, np.ndarray] = {}

    def prepare(self, texts: Texts) -> Reading:
        """Tokenise texts, give each token its pieces, and cut windows.

        texts (Texts): Texts with their tokens.
        RETURNS (Reading): Everything needed to read them.
        """
        return prepare(texts, self.tokenizer, self.window - 2, self.overlap)  # [CLS] and [SEP]

    def prepare_questions(
        self, texts: Texts, questions: Sequence[Mapping[str, str]], overlap: int
    ) -> Reading:
        """Tokenise texts and questions, and cut windows that have the question in each.

        texts (Texts): Texts with their tokens.
        questions (Sequence[Mapping[str, str]]): What is asked of each text, by name.
        overlap (int): Pieces of text that neighbouring windows share, at most.
        RETURNS (Reading): Everything needed to read every text once for each of its questions.
        RAISES (ValueError): If a question is empty, or takes more than half of a window.
        """
        asked = dict.fromkeys(chain.from_iterable(of_text.values() for of_text in questions))
        if new := [question for question in asked if question not in self._questions]:
            self._divide_questions(new)
        pieces = {question: self._questions[question] for question in asked}
        if len(self._questions) > KEPT_QUESTIONS:
            self._questions = {}
        return prepare_questions(texts, self.tokenizer, self.window, overlap, questions, pieces)

    def _divide_questions(self, questions: list[str]) -> None:
        most = (self.window - 3) // 2
        divided = self.tokenizer(questions)
        ids = np.split(divided.ids, np.cumsum(divided.counts)[:-1])
        for question, found in zip(questions, ids):
            if not 1 <= len(found) <= most:
                raise ValueError(
                    f"The question {question[:80]!r} has {len(found)} pieces. It may have 1 to "
                    f"{most}, half of a window of {self.window} pieces, so that there is room for "
                    "the text."
                )
        self._questions |= zip(questions, ids)

    def prepare_pairs(self, firsts: Sequence[str], seconds: Sequence[str]) -> Reading:
        """Tokenise pairs of texts, and cut windows that show something of both.

        firsts, seconds (Sequence[str]): The texts.
        RETURNS (Reading): Everything needed to read them.
        """
        pieces = self.tokenizer(firsts), self.tokenizer(seconds)
        return prepare_pairs(*pieces, self.window, self.overlap)

    def read(self, reading: Reading, readouts: Sequence[Readout]) -> list[Tensor]:
        """Run ALBERT over a reading, once, for any number of readouts.

        Differentiable where gradients are enabled; the model's own train/eval mode decides about
        dropout. A batch that does not fit into memory is read in smaller ones, and so are those
        after it.

        reading (Reading): From `prepare`.
        readouts (Sequence[Readout]): What to keep of the states.
        RETURNS (list[Tensor]): For each readout its rows, one a unit, in text order, on the device.
            On a GPU they may still be on their way.
        RAISES (MemoryError): If a single window does not fit into memory.
        """
        lengths = reading.lengths
        if not len(lengths):
            return [torch.empty(0, 0, device=self.engine.device) for _ in readouts]
        begins = np.cumsum(lengths) - lengths
        lanes = self.engine.lanes(int(lengths.sum()))
        ahead = batches(lengths, self.engine.budget(self.window, lanes), lanes)

        def read(windows: np.ndarray) -> list[tuple[Batch, list[Tensor]]]:
            return list(self._read_windows(reading, windows, readouts, lanes))

        n_pieces, n_windows = len(reading.ids), len(lengths)
        sizes = {"pieces": n_pieces, "all": n_pieces + n_windows, "positions": lengths.sum()}
        answers: list[Tensor] = []
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.engine.one_torch_thread(lanes))
            parts: Iterator[list[tuple[Batch, list[Tensor]]]] = map(read, ahead)
            if lanes > 1:
                pool = stack.enter_context(ThreadPoolExecutor(lanes))
                parts = pool.map(torch.inference_mode()(read), ahead)
            for batch, found in chain.from_iterable(parts):
                # Each batch at once to its place, as a long text has many
                both = np.concatenate([batch.owned, n_pieces + batch.windows])
                positions = expand(begins[batch.windows], batch.lengths)
                where = {"pieces": batch.owned, "all": both, "positions": positions}
                for i, (readout, rows) in enumerate(zip(readouts, found)):
                    if i == len(answers):
                        size = sizes.get(readout.unit, n_windows)
                        answers.append(rows.new_empty(size, rows.shape[1]))
                    places = to_device(where.get(readout.unit, batch.windows), rows.device)
                    answers[i].index_copy_(0, places, rows)
        return answers

    def _read_windows(
        self, reading: Reading, windows: np.ndarray, readouts: Sequence[Readout], lanes: int
    ) -> Iterator[tuple[Batch, list[Tensor]]]:
        """Run ALBERT over some windows, in smaller batches when they do not fit into memory.

        YIELDS (tuple[Batch, list[Tensor]]): A batch, and for each readout the rows of its units.
        """
        ahead = [windows]
        while ahead:
            windows = ahead.pop(0)
            lengths = reading.lengths[windows]
            fitting = [
                windows[some] for some in batches(lengths, self.engine.budget(self.window, lanes))
            ]
            if len(fitting) > 1:
                ahead = fitting + ahead
                continue
            batch = fill(reading, windows, self.tokenizer)
            try:
                answers = self._read_batch(batch, readouts, lanes)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(windows) == 1:
                    raise MemoryError(
                        f"A single window of {lengths[0]} pieces does not fit into the memory of "
                        f"{self.engine.device}. Set a smaller window."
                    ) from error
                self.engine.halve_budget(self.window)
                ahead.insert(0, windows)
            else:
                yield batch, answers

    def _read_batch(self, batch: Batch, readouts: Sequence[Readout], lanes: int) -> list[Tensor]:
        """Run ALBERT over one batch: for each readout the rows of its units."""
        states = self.engine(batch.ids, batch.lengths, lanes, batch.segments)  # (N, H)
        seen = {unit: look(states, batch, unit) for unit in {readout.unit for readout in readouts}}
        return [readout(seen[readout.unit]) for readout in readouts]


def look(states: Tensor, batch: Batch, unit: str) -> Tensor | Whole:
    """Take from the states of a batch what a readout is called with.

    states (Tensor): (N, H).
    batch (Batch): Where things are in it.
    unit (str): What to take, as in Readout.
    RETURNS (Tensor | Whole): One row a unit; or the windows whole.
    """
    if unit == "whole":
        return Whole(states, batch.lengths, batch.text_starts)
    if unit == "positions":
        return states
    if unit == "means":
        return means(to_device(batch.owned_rows, states.device), states, batch.owned_counts)
    rows = {
        "pieces": batch.owned_rows,
        "windows": batch.cls_rows,
        "all": np.concatenate([batch.owned_rows, batch.cls_rows]),
    }
    return states.index_select(0, to_device(rows[unit], states.device))
