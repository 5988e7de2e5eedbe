"""Long texts as overlapping windows, so that no text is ever cut off."""

from typing import NamedTuple

import numpy as np


class Windows(NamedTuple):
    """The windows of one text.

    Every piece is owned by exactly one window, the one that shows most of its context: window `w`
    shows the pieces `starts[w]:stops[w]` and owns `edges[w]:edges[w + 1]`.
    """

    starts: np.ndarray  # (W,) first piece shown
    stops: np.ndarray  # (W,) one past the last piece shown
    edges: np.ndarray  # (W + 1,) borders of what each window owns


def cut_windows(n_pieces: int, size: int, overlap: int, breaks: np.ndarray) -> Windows:
    """Cut a text into the fewest equal windows.

    Two neighbours share `overlap` pieces and part ownership in the middle of them, where both see
    equally far; the border moves to the nearest token break, so that a token is read in one window
    unless it is longer than what they share.

    n_pieces (int): Pieces in the text. A text without pieces still has one (empty) window.
    size (int): The most pieces a window may show.
    overlap (int): Pieces that neighbouring windows share.
    breaks (np.ndarray): Piece numbers at which a token starts, ascending.
    RETURNS (Windows): The windows, in order.
    """
    if n_pieces <= size:
        return Windows(np.array([0]), np.array([n_pieces]), np.array([0, n_pieces]))
    count = -(-(n_pieces - overlap) // (size - overlap))
    length = -(-(n_pieces + (count - 1) * overlap) // count)
    starts = np.linspace(0, n_pieces - length, count).round().astype(np.int64)
    stops = starts + length
    first, last = starts[1:], stops[:-1]  # the pieces that two neighbours share
    middle = (first + last) // 2
    breaks = np.concatenate([[-size], breaks, [n_pieces + size]])
    after = np.searchsorted(breaks, middle)
    below, above = breaks[after - 1], breaks[after]
    # When they are equally far, the one above is inside whenever the one below is
    nearest = np.where(middle - below < above - middle, below, above)
    middle = np.where((first <= nearest) & (nearest <= last), nearest, middle)
    return Windows(starts, stops, np.concatenate([[0], middle, [n_pieces]]))
