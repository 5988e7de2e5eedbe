from abc import ABC, abstractmethod

import numpy as np
from torch import Tensor

from ..modeling import Albert


class Executor(ABC):
    """Apply ALBERT's layers to windows that lie flat: one row a piece, no padding, window after
    window.

    An executor takes the weights as they are when it is made. It may keep them in another form.
    """

    model: Albert
    #: Matrix products run on so many rows at a time.
    aligned = 1

    def embed(self, ids: Tensor, positions: Tensor, segments: Tensor | None = None) -> Tensor:
        """Turn ids into what the first layer reads. There may be rows of no meaning behind them.

        ids (Tensor): Piece ids, (P,).
        positions (Tensor): Position of each piece in its window, (P,).
        segments (Tensor | None): Segment of each piece, (P,); None puts all in segment 0.
        RETURNS (Tensor): Hidden states, (P, H) or (N, H).
        """
        return self.model.embed(ids, segments, positions)

    @abstractmethod
    def __call__(self, hidden: Tensor, lengths: np.ndarray) -> Tensor:
        """Apply every layer in turn.

        hidden (Tensor): What `embed` returned; it may be overwritten.
        lengths (np.ndarray): Pieces in each window, (B,); they sum to P.
        RETURNS (Tensor): The last hidden states, (P, H).
        """


def row_in_grid(lengths: np.ndarray, width: int) -> np.ndarray:
    """Say where each piece goes when windows are padded.

    lengths (np.ndarray): Pieces in each window, (B,).
    width (int): What they are padded to, S.
    RETURNS (np.ndarray): For each piece its row in the (B * S) rows of the padded grid, (P,).
    """
    starts = np.cumsum(lengths) - lengths
    shift = np.arange(len(lengths)) * width - starts
    return np.arange(lengths.sum()) + np.repeat(shift, lengths)
