"""The whole way of a batch of documents through ALBERT: text, pieces, windows, batches, states.

What comes out is not the states but what heads make of them. ALBERT reads once; each head looks at
every batch of states while it is there, and keeps a few numbers a piece. So a document of any
length costs memory for its labels, not for its states, and a second head costs next to nothing.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .batching import batches
from .engine import Engine, choose_device
from .modeling import Albert
from .reading import Reading, Texts, prepare
from .tokenization import Tokenizer


class Readout(Protocol):
    """What a head does with states: a small function of each row, and how rows become answers."""

    unit: str  # "pieces": called with each piece's state; "windows": with each window's [CLS] state

    def __call__(self, states: Tensor) -> Tensor:
        """(N, H) -> (N, K), every row on its own."""

    def pool(self, rows: Tensor, reading: Reading) -> list[Tensor]:
        """(P, K) or (W, K), one row a unit -> one tensor a document."""


class Reader:
    """ALBERT with its tokenizer, ready to read documents of any length."""

    def __init__(
        self,
        model: Albert,
        tokenizer: Tokenizer,
        *,
        window: int | None = None,
        overlap: int = 64,
        batch_pieces: int = 4096,
        device: str = "auto",
    ):
        """Put an encoder and a tokenizer together.

        model (Albert): The encoder.
        tokenizer (Tokenizer): The tokenizer it was trained with.
        window (int | None): The most pieces it sees at once, [CLS] and [SEP] included. None: as
            many as the model has positions.
        overlap (int): Pieces that neighbouring windows of a longer text share.
        batch_pieces (int): The most pieces in a batch, padding included.
        device (str): "auto", "cpu", "cuda" or "cuda:N".
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
        if batch_pieces < window:
            raise ValueError(
                f"batch_pieces = {batch_pieces} is less than one window of {window} pieces. "
                f"Raise it, or set a smaller window."
            )
        self.model = model
        self.tokenizer = tokenizer
        self.size = window - 2  # pieces of text; the other two are [CLS] and [SEP]
        self.overlap = overlap
        self.batch_pieces = batch_pieces
        self.engine = Engine(model, choose_device(device))

    def prepare(self, texts: Texts) -> Reading:
        """Tokenise texts, give each token its pieces, and cut windows.

        texts (Texts): Texts with their tokens.
        RETURNS (Reading): Everything needed to read them.
        """
        return prepare(texts, self.tokenizer, self.size, self.overlap)

    def read(self, reading: Reading, readouts: Sequence[Readout]) -> list[Tensor]:
        """Run ALBERT over a reading, once, for any number of readouts.

        Differentiable where gradients are enabled; the model's own train/eval mode decides about
        dropout.

        reading (Reading): From `prepare`.
        readouts (Sequence[Readout]): What to keep of the states.
        RETURNS (list[Tensor]): For each readout its rows, (P, K) or (W, K), in text order.
        """
        found: list[list[Tensor]] = [[] for _ in readouts]
        piece_order, window_order = [], []
        lengths = reading.window_stops - reading.window_starts + 2
        for batch in batches(lengths, self.batch_pieces):
            ids, shown, owned = self._pad(reading, batch)
            states = self.engine(torch.from_numpy(ids), torch.from_numpy(shown >= -1))  # (B, S, H)
            window_order.append(batch)
            piece_order.append(shown[owned])
            pieces = states[torch.from_numpy(owned).to(states.device)]  # (owned, H)
            for rows, readout in zip(found, readouts):
                rows.append(readout(pieces if readout.unit == "pieces" else states[:, 0]))
        order = {
            "pieces": torch.from_numpy(np.argsort(np.concatenate(piece_order))),
            "windows": torch.from_numpy(np.argsort(np.concatenate(window_order))),
        }
        return [
            torch.cat(rows)[order[readout.unit].to(rows[0].device)]
            for rows, readout in zip(found, readouts)
        ]

    def _pad(self, reading: Reading, batch: np.ndarray) -> tuple[np.ndarray, ...]:
        """Lay windows out as a padded batch.

        RETURNS (tuple): Ids (B, S); the piece number shown at each position, -1 at [CLS] and
            [SEP], -2 at padding (B, S); whether the window owns the piece it shows (B, S).
        """
        starts, stops = reading.window_starts[batch, None], reading.window_stops[batch, None]
        column = np.arange((stops - starts).max() + 2)  # (S,)
        shown = starts + column - 1  # (B, S)
        inside = (column >= 1) & (shown < stops)
        end = column == stops - starts + 1
        shown = np.where(inside, shown, np.where(end | (column == 0), -1, -2))
        ids = np.full(shown.shape, self.tokenizer.pad_id, dtype=np.int64)
        ids[inside] = reading.ids[shown[inside]]
        ids[:, 0] = self.tokenizer.cls_id
        ids[end] = self.tokenizer.sep_id
        edges = reading.window_edges
        owned = (shown >= edges[batch, None]) & (shown < edges[batch + 1, None]) & inside
        return ids, shown, owned
