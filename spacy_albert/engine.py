"""Batches of windows to hidden states, on the hardware that is there."""

import torch
from torch import Tensor

from .modeling import Albert


def choose_device(device: str) -> torch.device:
    """Turn a device setting into a torch device.

    device (str): "auto" (a GPU if torch sees one), "cpu", "cuda" or "cuda:N".
    RETURNS (torch.device): The device.
    RAISES (ValueError): If there is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    available = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if (f"{device}:0" if device == "cuda" else device) not in available:
        raise ValueError(
            f"There is no device {device!r} here. Available: 'auto', "
            f"{', '.join(map(repr, available))}."
        )
    return torch.device(device)


class Engine:
    """Run ALBERT over padded batches with torch.

    The encoder is one layer applied again and again, so this loop is all that another executor
    has to replace.
    """

    def __init__(self, model: Albert, device: torch.device):
        """Place a model on its device.

        model (Albert): The encoder; it is moved, not copied.
        device (torch.device): Where to run it.
        """
        self.model = model.to(device)
        self.device = device

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Compute the last hidden state of every position.

        ids (Tensor): Piece ids, (B, S).
        mask (Tensor): True at real pieces, (B, S), False at padding.
        RETURNS (Tensor): Hidden states, (B, S, H). Rows of padding hold nothing meaningful.
        """
        ids, mask = ids.to(self.device), mask.to(self.device)
        hidden = self.model.embed(ids)  # (B, S, H)
        for layer in self.model.layers_by_depth():
            hidden = layer(hidden, mask)  # (B, S, H)
        return hidden
