"""The loss of whole taggings: a linear-chain CRF over those that the scheme allows.

Cross-entropy wants each tag right by itself, and spends effort on contradictions that decoding
never looks at. This is the loss of what decoding does look at (tagging.py): minus the log of the
share that taggings with the annotated tags have in the probability of all valid ones (Lafferty et
al., "Conditional Random Fields", 2001; with tags missing: Tsuboi et al., "Training Conditional
Random Fields Using Incomplete Annotations", 2008). Two tags may be neighbours or not, and nothing
is learned of how well they go together: so decoding stays as it is.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .tagging import MISSING, Tagset

NEVER = -1e6  # its exponential is 0, and unlike that of infinity its gradient is


def crf_loss(tagset: Tagset, logits: Sequence[Tensor], gold: Sequence[Tensor]) -> Tensor:
    """Minus the log probability of the annotation of some documents.

    A document whose annotation is part of no valid tagging, as the tagset lacks a tag for it, does
    not count.

    tagset (Tagset): The tags.
    logits (Sequence[Tensor]): Their scores in each document, (T, K).
    gold (Sequence[Tensor]): Their numbers, MISSING where unknown, (T,).
    RETURNS (Tensor): The sum over the documents.
    """
    unknown = [torch.full_like(tags, MISSING) for tags in gold]
    weights = log_weights(tagset, [*logits, *logits], [*unknown, *gold])  # (2 D,)
    all_valid, annotated = weights.chunk(2)
    losses = all_valid - annotated
    return losses[losses < -NEVER / 2].sum()


def log_weights(tagset: Tagset, logits: Sequence[Tensor], gold: Sequence[Tensor]) -> Tensor:
    """Weigh all valid taggings together that have the given tags (the forward algorithm).

    The ways are those of `tagging.Chain`, from token to token through state 0 and one for each
    label, and so are their names. What they weigh is kept as a ratio to the best.

    tagset (Tagset): The tags.
    logits (Sequence[Tensor]): Their scores in each document, (T, K).
    gold (Sequence[Tensor]): Those to be had, MISSING where any will do, (T,).
    RETURNS (Tensor): Logarithms, (D,).
    """
    outside = tagset.outside  # what documents are padded with, by a token at least
    tags = pad_sequence([F.pad(t, (0, 1), value=outside) for t in gold], padding_value=outside)
    scores = pad_sequence([F.pad(s, (0, 0, 0, 1)) for s in logits])  # (T, D, K)
    number = torch.arange(scores.shape[2], device=scores.device)
    is_other = (tags[..., None] != MISSING) & (tags[..., None] != number)
    scores = F.pad(scores.masked_fill(is_other, NEVER), (0, 1), value=NEVER)
    arcs = [
        scores[..., torch.from_numpy(table).to(scores.device)].logsumexp(dim=2)
        for table in tagset.arcs
    ]  # (T, D, 1), and (T, D, L) each
    state = scores.new_full((len(logits), 1 + len(tagset.labels)), NEVER)  # (D, 1 + L)
    state[:, 0] = 0.0
    best = scores.new_zeros(len(logits), 1)
    for closed, into, stay, out in zip(*arcs):
        over, on = state[:, :1], state[:, 1:]
        over, on = (
            torch.cat([over + closed, on + out], dim=1).logsumexp(dim=1, keepdim=True),
            torch.logaddexp(over + into, on + stay),
        )
        state = torch.cat([over, on], dim=1)
        top = state.detach().amax(dim=1, keepdim=True)
        state, best = state - top, best + top
    return (state[:, :1] + best)[:, 0]
