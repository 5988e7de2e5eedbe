"""From texts to what ALBERT is going to be shown: pieces, their tokens, and windows.

A whole batch of documents lies in one row. Numbers of pieces, windows and tokens run through the
batch; arrays with one number a document say where each begins.

Two texts can be read together, [CLS] first [SEP] second [SEP]: the second one is what the windows
are cut from, and the first one stands in each of them.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .alignment import Alignment, align, expand
from .texts import Texts
from .tokenization import Pieces, Tokenizer
from .windows import Windows, cut_windows


class Firsts(NamedTuple):
    """What each window shows before its text: the first of two texts, or a part of it."""

    ids: np.ndarray  # (F,) piece ids
    starts: np.ndarray  # (W,) first piece shown
    stops: np.ndarray  # (W,) one past the last piece shown
    owned: np.ndarray  # (W,) how many of them the window owns, of a first text in several parts


class Reading(NamedTuple):
    """How a batch of documents is going to be read.

    Where questions are asked, a document is read once for each, and is here as many documents.
    """

    ids: np.ndarray  # (P,) piece ids
    window_starts: np.ndarray  # (W,) first piece shown
    window_stops: np.ndarray  # (W,) one past the last piece shown
    window_edges: np.ndarray  # (W + 1,) window w owns the pieces edges[w]:edges[w + 1]
    token_pieces: np.ndarray  # (A,) pieces of the tokens, token by token
    token_counts: np.ndarray  # (T,) pieces per token; 0 for white space
    windows_per_doc: np.ndarray  # (D,)
    tokens_per_doc: np.ndarray  # (D,)
    firsts: Firsts | None = None  # None: each window shows one text
    questions: Sequence[Mapping[str, str]] | None = None  # by name, those of each document

    @property
    def text_starts(self) -> np.ndarray:
        """RETURNS (np.ndarray): Positions in each window before its text, (W,)."""
        if self.firsts is None:
            return np.ones_like(self.window_starts)
        return self.firsts.stops - self.firsts.starts + 2

    @property
    def lengths(self) -> np.ndarray:
        """RETURNS (np.ndarray): Positions in each window, [CLS] and [SEP] included, (W,)."""
        return self.text_starts + self.window_stops - self.window_starts + 1


class Divided(NamedTuple):
    """Texts in pieces."""

    ids: np.ndarray  # (P,)
    counts: np.ndarray  # (D,) pieces in each text
    alignment: Alignment
    tokens_per_doc: np.ndarray  # (D,)


def prepare(texts: Texts, tokenizer: Tokenizer, size: int, overlap: int) -> Reading:
    """Tokenise texts, give each token its pieces, and cut windows.

    texts (Texts): Texts with their tokens.
    tokenizer (Tokenizer): The tokenizer of the encoder.
    size (int): The most pieces of text in a window.
    overlap (int): Pieces that neighbouring windows share.
    RETURNS (Reading): Everything needed to read them.
    """
    divided = divide(texts, tokenizer)
    return _reading(divided, _cut(divided, size, overlap))


def prepare_questions(
    texts: Texts,
    tokenizer: Tokenizer,
    window: int,
    overlap: int,
    questions: Sequence[Mapping[str, str]],
    pieces: Mapping[str, np.ndarray],
) -> Reading:
    """Tokenise texts and cut windows for each question, which is going to stand in all of them.

    texts (Texts): Texts with their tokens.
    tokenizer (Tokenizer): The tokenizer of the encoder.
    window (int): The most pieces in a window, with [CLS], the question, and [SEP] twice.
    overlap (int): Pieces of text that neighbouring windows share, at most: no more than a third.
    questions (Sequence[Mapping[str, str]]): What is asked of each text, by name.
    pieces (Mapping[str, np.ndarray]): The pieces of each question.
    RETURNS (Reading): Everything needed to read them: every text as often as it is asked.
    """
    asked = [question for of_doc in questions for question in of_doc.values()]  # E of them
    owners = np.repeat(np.arange(len(questions)), np.fromiter(map(len, questions), np.int64))
    divided = repeat(divide(texts, tokenizer), owners)
    places = {question: number for number, question in enumerate(dict.fromkeys(asked))}
    which = np.array([places[question] for question in asked], dtype=np.int64)  # (E,)
    counts = np.array([len(pieces[question]) for question in places], dtype=np.int64)
    sizes = window - 3 - counts[which]  # (E,)
    windows = _cut(divided, sizes, np.minimum(overlap, sizes // 3))
    which = which.repeat(windows.per_text)  # (W,)
    starts = (np.cumsum(counts) - counts)[which]
    ids = np.concatenate([np.empty(0, np.int32), *(pieces[question] for question in places)])
    firsts = Firsts(ids, starts, starts + counts[which], counts[which])
    return _reading(divided, windows)._replace(firsts=firsts, questions=questions)


def prepare_pairs(firsts: Pieces, seconds: Pieces, window: int, overlap: int) -> Reading:
    """Cut windows for texts that are read two by two.

    If not both fit in, the longer one is read in windows, each with all of the other one; if each
    has more than half of the room, both are, and every part of one meets every part of the other.

    firsts (Pieces): The first text of each pair.
    seconds (Pieces): The second text of each pair.
    window (int): The most pieces in a window, with [CLS], and [SEP] twice.
    overlap (int): Pieces that neighbouring windows share, at most: no more than a third.
    RETURNS (Reading): Everything needed to read them. Tokens are none.
    """
    room = window - 3
    a, b = firsts.counts, seconds.counts
    half = room // 2
    fits = a + b <= room
    sizes_a = np.select([fits | (a <= half), b <= half], [a, room - b], half)
    sizes_b = np.select([fits, a <= half, b <= half], [b, room - a, b], half)
    sizes_a, sizes_b = np.maximum(sizes_a, 1), np.maximum(sizes_b, 1)
    no_breaks = np.empty(0, dtype=np.int64)
    parts = cut_windows(a, sizes_a, np.minimum(overlap, sizes_a // 3), no_breaks)
    owners = np.repeat(np.arange(len(a)), parts.per_text)  # (E,) of the parts
    no_tokens = np.zeros(len(b), dtype=np.int64)
    alone = Divided(seconds.ids, b, Alignment(no_breaks, no_breaks), no_tokens)
    divided, sizes = repeat(alone, owners), sizes_b[owners]
    windows = _cut(divided, sizes, np.minimum(overlap, sizes // 3))
    part = np.repeat(np.arange(len(owners)), windows.per_text)  # (W,)
    shown = Firsts(firsts.ids, parts.starts[part], parts.stops[part], np.diff(parts.edges)[part])
    per_pair = np.bincount(owners, windows.per_text, len(a)).astype(np.int64)
    reading = _reading(divided, windows)
    return reading._replace(firsts=shown, windows_per_doc=per_pair, tokens_per_doc=no_tokens)


def divide(texts: Texts, tokenizer: Tokenizer) -> Divided:
    """Tokenise texts, and give each token its pieces.

    texts (Texts): Texts with their tokens.
    tokenizer (Tokenizer): The tokenizer of the encoder.
    RETURNS (Divided): The texts in pieces.
    """
    pieces = tokenizer(texts.texts)
    lengths = np.fromiter(map(len, texts.texts), np.int64, len(texts.texts))
    begins = np.cumsum(lengths) - lengths  # (D,) in one row of all texts
    of_tokens, of_pieces = begins.repeat(texts.tokens_per_doc), begins.repeat(pieces.counts)
    alignment = align(
        texts.token_starts + of_tokens,
        texts.token_ends + of_tokens,
        pieces.starts + of_pieces,
        pieces.ends + of_pieces,
    )
    return Divided(pieces.ids, pieces.counts, alignment, texts.tokens_per_doc)


def repeat(divided: Divided, owners: np.ndarray) -> Divided:
    """Give texts again, or leave them out.

    divided (Divided): Texts in pieces.
    owners (np.ndarray): Their numbers, (E,), ascending.
    RETURNS (Divided): E texts.
    """
    pieces, counts = divided.alignment
    tokens = divided.tokens_per_doc
    # How many pieces the tokens of each text have, in all
    before = np.append(0, np.cumsum(counts))
    edges = before[np.append(0, np.cumsum(tokens))]
    of_tokens = np.diff(edges)
    new = divided.counts[owners]
    begins, old = np.cumsum(new) - new, (np.cumsum(divided.counts) - divided.counts)[owners]
    entries = expand(edges[:-1][owners], of_tokens[owners])
    alignment = Alignment(
        pieces[entries] + (begins - old).repeat(of_tokens[owners]),
        counts[expand((np.cumsum(tokens) - tokens)[owners], tokens[owners])],
    )
    return Divided(divided.ids[expand(old, new)], new, alignment, tokens[owners])


def first_entries(counts: np.ndarray) -> np.ndarray:
    """Find where each non-empty range of a ragged array begins.

    counts (np.ndarray): Length of each range.
    RETURNS (np.ndarray): Position of the first entry of every range that has one.
    """
    return (np.cumsum(counts) - counts)[counts > 0]


def _cut(divided: Divided, size: int | np.ndarray, overlap: int | np.ndarray) -> Windows:
    """Cut windows, and part them where tokens begin."""
    breaks = divided.alignment.pieces[first_entries(divided.alignment.counts)]
    return cut_windows(divided.counts, size, overlap, breaks)


def _reading(divided: Divided, windows: Windows) -> Reading:
    return Reading(
        ids=divided.ids,
        window_starts=windows.starts,
        window_stops=windows.stops,
        window_edges=windows.edges,
        token_pieces=divided.alignment.pieces,
        token_counts=divided.alignment.counts,
        windows_per_doc=windows.per_text,
        tokens_per_doc=divided.tokens_per_doc,
    )
