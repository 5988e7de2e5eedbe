"""What ALBERT is trained for: to name hidden pieces, and to tell whether segments are in order."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..executors.flat import FlatExecutor
from ..modeling import Albert, AlbertConfig, MaskedLanguageModelHead, SentenceOrderHead
from .batches import NOT_ASKED, Batch


class PreTraining(nn.Module):
    """An ALBERT with both heads of pre-training.

    Heads and their parameters are spelled as in Hugging Face's `AlbertForPreTraining`.

    config (AlbertConfig): The shape.
    dtype (torch.dtype): What matrix products take and give: torch.float32, or torch.bfloat16, for
        which weights are cast as they are used.
    """

    def __init__(self, config: AlbertConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.albert = Albert(config)
        self.predictions = MaskedLanguageModelHead(config, self.albert.embeddings.words)
        self.sop_classifier = SentenceOrderHead(config)
        self.dtype = dtype

    def forward(self, batch: Batch) -> Tensor:
        """Answer the questions of a batch. The last layer comes to its end only where something is
        asked, and only there pieces are scored, which is a product with the whole vocabulary.

        batch (Batch): The batch, on the device of the weights.
        RETURNS (Tensor): Sums over the batch: the loss of the pieces asked for, the loss of the
            order of segments, and how many answers of each kind are right; (4,) float32.
        """
        apply_layers = FlatExecutor(self.albert, self.dtype, is_trained=True)
        is_cast = self.dtype != torch.float32
        n_places = len(batch.places)
        wanted = torch.cat([batch.places, batch.firsts])
        with torch.autocast(batch.ids.device.type, self.dtype, is_cast):
            hidden = self.albert.embed(batch.ids, batch.segments, batch.positions)  # (P, H)
            states = apply_layers(hidden, batch.lengths, wanted)  # (M + B, H)
            pieces = self.predictions(states[:n_places]).float()  # (M, V)
            pooled = self.albert.pool(states[n_places:, None])  # (B, 1, H) -> (B, H)
            orders = self.sop_classifier(pooled).float()  # (B, 2)
        return torch.stack(
            [
                F.cross_entropy(pieces, batch.answers, reduction="sum"),
                F.cross_entropy(orders, batch.order, reduction="sum", ignore_index=NOT_ASKED),
                (pieces.argmax(1) == batch.answers).sum(),
                (orders.argmax(1) == batch.order).sum(),
            ]
        )
