"""What ALBERT is trained for: to name hidden pieces, and to tell whether segments are in order."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..executors.flat import FlatExecutor
from ..modeling import (
    Albert,
    AlbertConfig,
    Embeddings,
    MaskedLanguageModelHead,
    SentenceOrderHead,
)
from .batches import NOT_ASKED, Batch

#: The width of BERT-base, whose embeddings begin as wide as ALBERT's and are six times as long.
BERT_WIDTH = 768


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


def begin_as_sinusoids(embeddings: Embeddings) -> None:
    """Give fresh embeddings what lets a small model learn sooner.

    Positions become sinusoids, from which it is easy to see what is near; random ones say nothing
    of that until it has been learned from a great many pieces. Words are drawn as wide as makes
    their scores as wide as BERT's are at the start: a score sums up E products here, and 768 there.
    Positions are as wide as words, which would drown them else.

    embeddings (Embeddings): The embeddings of a model that has not been trained, changed in place.
    """
    words, positions = embeddings.words.weight.data, embeddings.positions.weight.data
    factor = (BERT_WIDTH / words.shape[1]) ** 0.5
    words *= factor
    positions[:] = sinusoids(*positions.shape).to(positions) * positions.std() * factor


def sinusoids(n_positions: int, width: int) -> Tensor:
    """Tell positions by waves of many lengths, so that from two of them follows how far apart they
    are. Source: Vaswani et al., "Attention is all you need", 2017, section 3.5.

    n_positions (int): Positions.
    width (int): Waves: a sine and a cosine of each length.
    RETURNS (Tensor): A row for each position, with a mean square of 1, (n_positions, width).
    """
    lengths = 10_000 ** (torch.arange(0, width, 2) / width)  # (width / 2,)
    angles = torch.arange(n_positions)[:, None] / lengths  # (n_positions, width / 2)
    waves = torch.stack([angles.sin(), angles.cos()], dim=2)  # (n_positions, width / 2, 2)
    return 2**0.5 * waves.flatten(1)[:, :width]
