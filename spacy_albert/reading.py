"""From texts to what ALBERT is going to be shown: pieces, their tokens, and windows.

A whole batch of documents lies in one row. Numbers of pieces, windows and tokens run through the
batch; arrays with one number a document say where each begins.
"""

from typing import NamedTuple

import numpy as np

from .alignment import align
from .texts import Texts
from .tokenization import Tokenizer
from .windows import cut_windows


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
    breaks = alignment.pieces[first_entries(alignment.counts)]
    windows = cut_windows(pieces.counts, size, overlap, breaks)
    return Reading(
        ids=pieces.ids,
        window_starts=windows.starts,
        window_stops=windows.stops,
        window_edges=windows.edges,
        token_pieces=alignment.pieces,
        token_counts=alignment.counts,
        windows_per_doc=windows.per_text,
        tokens_per_doc=texts.tokens_per_doc,
    )


def first_entries(counts: np.ndarray) -> np.ndarray:
    """Find where each non-empty range of a ragged array begins.

    counts (np.ndarray): Length of each range.
    RETURNS (np.ndarray): Position of the first entry of every range that has one.
    """
    return (np.cumsum(counts) - counts)[counts > 0]
