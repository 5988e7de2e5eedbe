"""Arrays to a device and back. On CUDA nobody waits: copies go through pinned memory."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Send an array to a device, on CUDA without waiting for the copy.

    array (np.ndarray): The array.
    device (torch.device): The device.
    RETURNS (Tensor): The same numbers there.
    """
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def to_cpu(tensors: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
    """Begin to fetch tensors from a device.

    tensors (Sequence[Tensor]): The tensors, all on one device.
    RETURNS (Callable): Waits for them, and gives them.
    """
    if not any(tensor.is_cuda for tensor in tensors):
        return lambda: [tensor.cpu() for tensor in tensors]
    with torch.cuda.device(tensors[0].device):
        here = [torch.empty_like(t, device="cpu", pin_memory=True) for t in tensors]
        for target, tensor in zip(here, tensors):
            target.copy_(tensor, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()

    def arrive() -> list[Tensor]:
        copied.synchronize()
        return here

    return arrive
