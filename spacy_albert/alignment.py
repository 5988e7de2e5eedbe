"""Which pieces belong to which token."""

from typing import NamedTuple

import numpy as np


class Alignment(NamedTuple):
    """The pieces of every token, ragged: token `t` owns the next `counts[t]` entries of `pieces`.

    A piece that crosses a token border belongs to both sides ("▁cannot" to "can" and to "not").
    White space tokens and characters that ALBERT drops have no pieces.
    """

    pieces: np.ndarray  # (A,) piece numbers, token by token
    counts: np.ndarray  # (T,) pieces per token


def align(
    token_starts: np.ndarray,
    token_ends: np.ndarray,
    piece_starts: np.ndarray,
    piece_ends: np.ndarray,
) -> Alignment:
    """Find the pieces that stand for at least one character of each token.

    Pieces and tokens are both in text order, so a token's pieces are consecutive among those that
    stand for anything: two binary searches give the range. A bare "▁" stands for nothing and
    belongs to no token. Texts may follow one another in one row of characters.

    token_starts (np.ndarray): First character of each token, ascending.
    token_ends (np.ndarray): One past the last character of each token.
    piece_starts (np.ndarray): First character of each piece, ascending.
    piece_ends (np.ndarray): One past the last character of each piece, ascending.
    RETURNS (Alignment): The pieces of every token.
    """
    visible = np.flatnonzero(piece_ends > piece_starts)
    first = np.searchsorted(piece_ends[visible], token_starts, side="right")
    stop = np.searchsorted(piece_starts[visible], token_ends, side="left")
    counts = np.maximum(stop - first, 0)
    return Alignment(visible[expand(first, counts)], counts)


def expand(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Concatenate the ranges `start, start + 1, ...` of `count` numbers each.

    starts (np.ndarray): First number of each range.
    counts (np.ndarray): Length of each range.
    RETURNS (np.ndarray): All numbers, range by range.
    """
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(counts.sum())
