"""From texts to what ALBERT is going to be shown: pieces, their tokens, and windows.

A whole batch of documents lies in one row. Numbers of pieces, windows and tokens run through the
batch; arrays with one number a document say where each begins.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from .alignment import align
from .tokenization import Tokenizer
from .windows import cut_windows


class Texts(NamedTuple):
    """Texts with the character offsets of their tokens."""

    texts: Sequence[str]  # D of them
    token_starts: np.ndarray  # (T,) first character of each token, in its own text
    token_ends: np.ndarray  # (T,) one past its last character
    tokens_per_doc: np.ndarray  # (D,)


class Reading(NamedTuple):
    """How a batch of documents is going to be read."""

    ids: np.ndarray  # (P,) piece ids
    window_starts: np.ndarray  # (W,) first piece shown
    window_stops: np.ndarray  # (W,) one past the last piece shown
    window_edges: np.ndarray  # (W + 1,) window w owns the pieces edges[w]:edges[w + 1]
    token_pieces: np.ndarray  # (A,) pieces of the tokens, token by token
    token_counts: np.ndarray  # (T,) pieces per token; 0 for white space
    windows_per_doc: np.ndarray  # (D,)
    tokens_per_doc: np.ndarray  # (D,)


def prepare(texts: Texts, tokenizer: Tokenizer, size: int, overlap: int) -> Reading:
    """Tokenise texts, give each token its pieces, and cut windows.

    texts (Texts): Texts with their tokens.
    tokenizer (Tokenizer): The tokenizer of the encoder.
    size (int): The most pieces of text in a window.
    overlap (int): Pieces that neighbouring windows share.
    RETURNS (Reading): Everything needed to read them.
    """
    n_pieces = 0
    ids, windows, alignments = [], [], []
    cuts = np.cumsum(texts.tokens_per_doc)[:-1]
    tokens = zip(np.split(texts.token_starts, cuts), np.split(texts.token_ends, cuts))
    for (starts, ends), pieces in zip(tokens, tokenizer(texts.texts)):
        alignment = align(starts, ends, pieces)
        firsts = alignment.pieces[first_entries(alignment.counts)]
        cut = cut_windows(len(pieces.ids), size, overlap, firsts)
        ids.append(pieces.ids)
        windows.append([array + n_pieces for array in cut])
        alignments.append((alignment.pieces + n_pieces, alignment.counts))
        n_pieces += len(pieces.ids)
    empty = np.empty(0, dtype=np.int64)
    return Reading(
        ids=np.concatenate([empty, *ids]),
        window_starts=np.concatenate([empty, *(starts for starts, _, _ in windows)]),
        window_stops=np.concatenate([empty, *(stops for _, stops, _ in windows)]),
        window_edges=np.concatenate([[0], *(edges[1:] for _, _, edges in windows)]),
        token_pieces=np.concatenate([empty, *(pieces for pieces, _ in alignments)]),
        token_counts=np.concatenate([empty, *(counts for _, counts in alignments)]),
        windows_per_doc=np.array([len(starts) for starts, _, _ in windows], dtype=np.int64),
        tokens_per_doc=texts.tokens_per_doc,
    )


def first_entries(counts: np.ndarray) -> np.ndarray:
    """Find where each non-empty range of a ragged array begins.

    counts (np.ndarray): Length of each range.
    RETURNS (np.ndarray): Position of the first entry of every range that has one.
    """
    return (np.cumsum(counts) - counts)[counts > 0]


def split(rows: Tensor, counts: Iterable[int]) -> list[Tensor]:
    """Split rows into one tensor a document.

    rows (Tensor): (N, K).
    counts (Iterable[int]): Rows per document; they sum to N.
    RETURNS (list[Tensor]): One (n, K) tensor for each document.
    """
    return list(rows.split([int(count) for count in counts]))
