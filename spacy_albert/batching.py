"""Windows of like length together, under a budget of pieces."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from .alignment import expand
from .reading import Reading
from .tokenization import Tokenizer


def batches(lengths: np.ndarray, budget: int, lanes: int = 1) -> list[np.ndarray]:
    """Group windows so that a padded batch holds at most `budget` pieces.

    Longest first: memory peaks in the first batch, not hours into a job. Where batches are computed
    side by side, they are made a little smaller if that makes each lane have as many as the others:
    of a few batches, one too many would leave half of the machine idle while it is computed.

    lengths (np.ndarray): Length of each window in pieces, [CLS] and [SEP] included.
    budget (int): The most pieces in a padded batch. A window longer than that is a batch alone.
    lanes (int): How many batches are computed side by side.
    RETURNS (list[np.ndarray]): Indices of the windows of each batch, longest first.
    """
    order = np.argsort(-lengths, kind="stable")
    longest_first = lengths[order].tolist()
    budgets = range(budget, budget * 3 // 4, -16) if lanes > 1 else [budget]
    cuts = (cut(longest_first, smaller) for smaller in budgets)
    even = (edges for edges in cuts if (len(edges) - 1) % lanes == 0)
    edges = next(even, None) or cut(longest_first, budget)
    return [order[start:stop] for start, stop in pairwise(edges)]


def cut(lengths: list[int], budget: int) -> list[int]:
    """Cut windows, the longest first, into batches of at most `budget` pieces.

    lengths (list[int]): The length of each window.
    budget (int): The most pieces in a padded batch.
    RETURNS (list[int]): Where each batch begins, and the end.
    """
    edges = [0]
    while edges[-1] < len(lengths):
        edges.append(edges[-1] + max(1, budget // lengths[edges[-1]]))
    return [min(edge, len(lengths)) for edge in edges]


class Batch(NamedTuple):
    """Windows as ALBERT reads them, flat: window after window, [CLS] text [SEP] each; where two
    texts are read together, [CLS] first text [SEP] text [SEP].
    """

    windows: np.ndarray  # (B,) the numbers of the windows in the reading
    ids: np.ndarray  # (N,) piece ids
    segments: np.ndarray | None  # (N,) 1 where the second text is; None: there is but one
    lengths: np.ndarray  # (B,) pieces of each window; they sum to N
    text_starts: np.ndarray  # (B,) positions in each window before its text
    cls_rows: np.ndarray  # (B,) rows of [CLS]
    owned_rows: np.ndarray  # (O,) rows of the pieces that their window owns
    owned: np.ndarray  # (O,) the numbers of these pieces in the reading
    owned_counts: np.ndarray  # (B,) how many each window owns; they sum to O


def fill(reading: Reading, windows: np.ndarray, tokenizer: Tokenizer) -> Batch:
    """Lay windows out as a batch.

    reading (Reading): What the windows are of.
    windows (np.ndarray): Numbers of the windows, (B,).
    tokenizer (Tokenizer): Knows [CLS] and [SEP].
    RETURNS (Batch): The batch.
    """
    starts, stops = reading.window_starts[windows], reading.window_stops[windows]
    lengths, text_starts = reading.lengths[windows], reading.text_starts[windows]
    ends = np.cumsum(lengths)
    cls_rows = ends - lengths
    # Row r of window w shows piece r - text_rows[w] + starts[w]
    text_rows = cls_rows + text_starts
    ids = np.empty(ends[-1], dtype=np.int32)
    ids[expand(text_rows, stops - starts)] = reading.ids[expand(starts, stops - starts)]
    ids[cls_rows] = tokenizer.cls_id
    ids[ends - 1] = tokenizer.sep_id
    segments = None
    if reading.firsts is not None:
        first_starts = reading.firsts.starts[windows]
        counts = text_starts - 2
        ids[expand(cls_rows + 1, counts)] = reading.firsts.ids[expand(first_starts, counts)]
        ids[text_rows - 1] = tokenizer.sep_id
        segments = np.zeros(ends[-1], dtype=np.int32)
        segments[expand(text_rows, ends - text_rows)] = 1
    first, last = reading.window_edges[windows], reading.window_edges[windows + 1]
    owned = expand(first, last - first)
    owned_rows = expand(text_rows + first - starts, last - first)
    return Batch(
        windows, ids, segments, lengths, text_starts, cls_rows, owned_rows, owned, last - first
    )
