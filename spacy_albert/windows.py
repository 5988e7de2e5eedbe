"""Long texts as overlapping windows, so that no text is ever cut off."""

from typing import NamedTuple

import numpy as np


class Windows(NamedTuple):
    """The windows of a batch of texts, whose pieces lie in one row.

    Every piece is owned by exactly one window, the one that shows most of its context: window `w`
    shows the pieces `starts[w]:stops[w]` and owns `edges[w]:edges[w + 1]`.
    """

    starts: np.ndarray  # (W,) first piece shown
    stops: np.ndarray  # (W,) one past the last piece shown
    edges: np.ndarray  # (W + 1,) borders of what each window owns
    per_text: np.ndarray  # (D,) windows of each text


def cut_windows(
    counts: np.ndarray, size: int | np.ndarray, overlap: int | np.ndarray, breaks: np.ndarray
) -> Windows:
    """Cut each text into the fewest equal windows.

    Two neighbours share `overlap` pieces and part ownership in the middle of them, where both see
    equally far; the border moves to the nearest token break, so that a token is read in one window
    unless it is longer than what they share.

    counts (np.ndarray): Pieces in each text, (D,). A text without pieces has one (empty) window.
    size (int | np.ndarray): The most pieces a window may show, of all texts or of each, (D,).
    overlap (int | np.ndarray): Pieces that neighbouring windows share, likewise; fewer than that.
    breaks (np.ndarray): Piece numbers at which a token starts, ascending.
    RETURNS (Windows): The windows, in order.
    """
    per_text = np.maximum(1, -(-(counts - overlap) // (size - overlap)))  # (D,)
    lengths = -(-(counts + (per_text - 1) * overlap) // per_text)  # (D,) of each of its windows
    steps = (counts - lengths) / np.maximum(per_text - 1, 1)  # (D,)
    nth = np.arange(per_text.sum()) - np.repeat(np.cumsum(per_text) - per_text, per_text)  # (W,)
    offsets = (nth * steps.repeat(per_text)).round().astype(np.int64)
    starts = (np.cumsum(counts) - counts).repeat(per_text) + offsets
    stops = starts + lengths.repeat(per_text)

    # Neighbours in one text share the pieces from `first` to `last`; between texts these are equal
    first, last = starts[1:], stops[:-1]
    middle = (first + last) // 2
    farther = np.max(size, initial=1)  # than any border may move
    breaks = np.concatenate([[-farther], breaks, [counts.sum() + farther]])
    after = np.searchsorted(breaks, middle)
    below, above = breaks[after - 1], breaks[after]
    # When they are equally far, the one above is inside whenever the one below is
    nearest = np.where(middle - below < above - middle, below, above)
    middle = np.where((first <= nearest) & (nearest <= last), nearest, middle)
    return Windows(starts, stops, np.concatenate([[0], middle, stops[-1:]]), per_text)
