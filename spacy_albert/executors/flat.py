import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..modeling import Albert, Layer
from ..transfer import to_device
from .base import Executor, row_in_grid

try:
    from torch.nn.attention import varlen
except ImportError:  # an older torch
    varlen = None  # type: ignore[assignment]

#: Mixes the values of pieces under a layer's queries and keys, (P, 3H) -> (P, H).
Attention = Callable[[Layer, Tensor], Tensor]


class FlatExecutor(Executor):
    """Run the layers with torch, on any device. All but attention looks at each piece by itself
    and needs no padding; attention goes window by window.

    In float32 this is the model itself, and gradients flow. In bfloat16 matrix products take and
    give that; sums and LayerNorm stay in float32, as rounding there would add up from layer to
    layer.
    """

    def __init__(self, model: Albert, dtype: torch.dtype = torch.float32, is_trained: bool = False):
        """Take a model over.

        model (Albert): The encoder, on its device.
        dtype (torch.dtype): torch.float32 or torch.bfloat16, which takes a copy, cast once.
        is_trained (bool): Take no copy, but cast the weights themselves in every call, once for all
            depths: so gradients reach them.
        """
        self.model, self.dtype, self.is_trained = model, dtype, is_trained
        if dtype != torch.float32 and not is_trained:
            self.model = copy.deepcopy(model).eval()  # it may be made in the midst of training
            for part in self.model.groups.modules():
                if isinstance(part, nn.Linear):
                    part.to(dtype)

    def __call__(self, hidden: Tensor, lengths: np.ndarray, wanted: Tensor | None = None) -> Tensor:
        """Apply every layer in turn.

        hidden (Tensor): What `embed` returned, (P, H).
        lengths (np.ndarray): Pieces in each window, (B,); they sum to P.
        wanted (Tensor | None): The pieces whose states are wanted, (W,) int64; None for all. In the
            last layer they look at all pieces, and the rest is done for them alone.
        RETURNS (Tensor): The last hidden states, (W, H).
        """
        is_cast = self.dtype != torch.float32
        # The kernel for windows of all lengths has no dropout
        drops = self.model.training and self.model.config.attention_probs_dropout_prob > 0
        if hidden.is_cuda and is_cast and varlen and not drops:
            attend = varlen_attention(lengths, hidden.device)
        else:
            attend = padded_attention(lengths, hidden.device)
        with torch.autocast(hidden.device.type, self.dtype, is_cast, self.is_trained):
            *layers, last = self.model.layers_by_depth()
            for layer in layers:
                hidden = layer.transform(hidden, attend(layer, layer.qkv(hidden)))  # (P, H)
            mixed = attend(last, last.qkv(hidden))  # (P, H)
            if wanted is not None:
                hidden, mixed = hidden[wanted], mixed[wanted]  # (W, H)
            hidden = last.transform(hidden, mixed)
        return hidden


def varlen_attention(lengths: np.ndarray, device: torch.device) -> Attention:
    """Attend without padding, in one kernel for windows of all lengths (FlashAttention).

    lengths (np.ndarray): Pieces in each window, (B,).
    device (torch.device): A CUDA device.
    RETURNS (Attention): The attention.
    """
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    borders = to_device(ends, device)  # (B + 1,)
    longest = int(lengths.max())

    def attend(layer: Layer, qkv: Tensor) -> Tensor:
        query, key, value = qkv.view(len(qkv), 3, layer.num_heads, -1).unbind(1)  # 3 x (P, A, H/A)
        mixed: Any = varlen.varlen_attn(query, key, value, borders, borders, longest, longest)
        return mixed.reshape(len(qkv), -1)  # (P, H)

    return attend


def padded_attention(lengths: np.ndarray, device: torch.device) -> Attention:
    """Attend on windows padded to the longest, under a mask.

    lengths (np.ndarray): Pieces in each window, (B,).
    device (torch.device): Any device.
    RETURNS (Attention): The attention.
    """
    B, S = len(lengths), int(lengths.max())
    if (lengths == S).all():

        def attend_as_is(layer: Layer, qkv: Tensor) -> Tensor:
            return layer.attend(qkv.view(B, S, -1), None).view(B * S, -1)  # (P, H)

        return attend_as_is
    rows = to_device(row_in_grid(lengths, S), device)  # (P,)
    mask = to_device(np.arange(S) < lengths[:, None], device)  # (B, S)

    def attend(layer: Layer, qkv: Tensor) -> Tensor:
        grid = qkv.new_zeros(B * S, qkv.shape[1]).index_copy(0, rows, qkv)  # (B * S, 3H)
        mixed = layer.attend(grid.view(B, S, -1), mask)  # (B, S, H)
        return mixed.view(B * S, -1).index_select(0, rows)  # (P, H)

    return attend
