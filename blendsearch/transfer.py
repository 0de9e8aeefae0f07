"""Copies of tensors to a GPU that do not wait for what it computes."""

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the CPU to `device`; return it unchanged where it is there.

    A copy from ordinary memory waits until the GPU has done all its work, so the CPU can prepare nothing meanwhile. One
    from pinned memory does not wait.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)
