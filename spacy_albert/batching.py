"""Windows of like length together, under a budget of pieces."""

from collections.abc import Iterator

import numpy as np


def batches(lengths: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Group windows so that a padded batch holds at most `budget` pieces.

    Longest first: memory peaks in the first batch, not hours into a job.

    lengths (np.ndarray): Length of each window in pieces, [CLS] and [SEP] included.
    budget (int): The most pieces in a padded batch. A window longer than that is a batch alone.
    YIELDS (np.ndarray): Indices of the windows of one batch, longest first.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        stop = start + max(1, budget // int(lengths[order[start]]))
        yield order[start:stop]
        start = stop
