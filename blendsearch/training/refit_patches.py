"""Inputs of a layer at sampled output positions, as rows of a matrix."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def extract_patches(layer: nn.Conv2d | nn.Linear, x: Tensor, positions: Tensor) -> Tensor:
    """Return the inputs of `layer` for its outputs at `positions`, from its input `x`: float32 (images * m, inputs).

    `positions` has shape (images, m), in the flattened output. Inputs are in the order of `flatten_weight`. Only the
    sampled positions are read and converted.
    """
    if isinstance(layer, nn.Linear):
        return x.float().clone()
    left, _, top, _ = layer._reversed_padding_repeated_twice
    if layer.padding_mode != "zeros":
        x, left, top = F.pad(x, layer._reversed_padding_repeated_twice, layer.padding_mode), 0, 0
    high, wide = x.shape[2:]
    pixels = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])  # without a copy if x is channels-last
    row, column = _locate_taps(layer, positions, _count_columns(layer, wide), (top, left))
    inside = (row >= 0) & (row < high) & (column >= 0) & (column < wide)
    image = torch.arange(len(x), device=x.device)[:, None, None] * (high * wide)
    index = image + row.clamp(0, high - 1) * wide + column.clamp(0, wide - 1)
    read = pixels.index_select(0, index.flatten()).float()
    if layer.padding_mode == "zeros" and any(layer._reversed_padding_repeated_twice):
        read.masked_fill_(~inside.reshape(-1, 1), 0)
    return read.reshape(positions.numel(), -1)


def flatten_weight(weight: Tensor) -> Tensor:
    """Return a weight as (outputs, inputs), taps before channels, so that a patch is a few contiguous reads."""
    return weight.movedim(1, -1).reshape(len(weight), -1)


def unflatten_weight(flat: Tensor, shape: torch.Size) -> Tensor:
    """Return the weight of `shape` whose `flatten_weight` is `flat`."""
    return flat.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)


def _count_columns(layer: nn.Conv2d, wide: int) -> int:
    """Return the width of the output of `layer`, for an input of width `wide`."""
    left, right = layer._reversed_padding_repeated_twice[:2] if layer.padding_mode == "zeros" else (0, 0)
    return (wide + left + right - layer.dilation[1] * (layer.kernel_size[1] - 1) - 1) // layer.stride[1] + 1


def _locate_taps(layer: nn.Conv2d, positions: Tensor, columns: int, padding: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return row and column of each tap in the input, negative in the padding: (images, m, taps) each."""
    tall, broad = layer.kernel_size
    down = torch.arange(tall, device=positions.device).repeat_interleave(broad) * layer.dilation[0]
    across = torch.arange(broad, device=positions.device).repeat(tall) * layer.dilation[1]
    row = (positions // columns * layer.stride[0] - padding[0])[:, :, None] + down
    column = (positions % columns * layer.stride[1] - padding[1])[:, :, None] + across
    return row, column
