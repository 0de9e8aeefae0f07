"""Execution of an unknown operation on some of the channels: does it treat each channel alone?"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

from blendsearch.structure.operation import Operation, list_arguments

MAX_ELEMENTS = 2**26
"""Elements of the inputs of an operation that is executed again."""


ATTENTION_OPS = {
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_attention_math",
    "scaled_dot_product_attention",
}
"""Operations that are random with dropout only, which evaluation mode switches off."""

Place = tuple[int, Tensor]
"""A dimension of an output, and the number of the channel at each of its positions."""


def find_places(operation: Operation, dims: Mapping[Tensor, int]) -> list[Place | None] | None:
    """Find the places of the channels in each output; None for the list if the operation mixes channels.

    `dims` maps each input with channels to their dimension; they have equally many. The operation is executed on random
    values for all channels, and for every second of them: the second outputs must be slices of the first. A channel
    may be repeated (patches). An output without elements has no place.
    """
    width = {tensor.shape[dim] for tensor, dim in dims.items()}.pop()
    is_random = torch.Tag.nondeterministic_seeded in operation.func.tags and operation.name not in ATTENTION_OPS
    unsuitable = operation.func._schema.is_mutable or is_random
    if unsuitable or width < 2 or sum(tensor.numel() for tensor in operation.inputs) > MAX_ELEMENTS:
        return None
    some = torch.arange(0, width, 2)
    generator = torch.Generator().manual_seed(0)
    values = {
        tensor: torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for tensor in dims
    }
    parts = {tensor: value.index_select(dims[tensor], some) for tensor, value in values.items()}
    try:
        complete, partial = _execute(operation, values), _execute(operation, parts)
    except Exception:  # sizes among its arguments do not fit fewer channels
        return None
    found = [_find_place(one, other, width, some) for one, other in zip(complete, partial, strict=True)]
    if not any(output.numel() for output in complete):
        return found
    lost = any(place is None and one.numel() for place, one in zip(found, complete, strict=True))
    return None if lost or all(place is None for place in found) else found


def count_macs_per_channel(operation: Operation, width: int) -> int:
    """Count the multiply-accumulates of an operation for each of its `width` channels."""
    with FlopCounterMode(display=False) as counter:
        operation.func(*operation.args, **operation.kwargs)
    return int(counter.get_total_flops()) // 2 // width


def _draw_values(tensor: Tensor) -> Tensor:
    """Draw random numbers in the shape of `tensor`; integers, which may be places, are returned unchanged."""
    if not tensor.is_floating_point():
        return tensor
    return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(tensor.ndim), dtype=tensor.dtype)


def _execute(operation: Operation, replaced: Mapping[Tensor, Tensor]) -> list[Tensor]:
    def replace(leaf: Any) -> Any:
        return replaced.get(leaf, leaf) if isinstance(leaf, Tensor) else leaf

    args, kwargs = tree_map(replace, (operation.args, dict(operation.kwargs)))
    return list_arguments(operation.func(*args, **kwargs))


def _find_place(complete: Tensor, partial: Tensor, width: int, some: Tensor) -> Place | None:
    """Find the dimension of an output that holds the channels, and the channel of each of its positions."""
    for dim in range(complete.ndim):
        repeats = complete.shape[dim] // width
        expected = (*complete.shape[:dim], len(some) * repeats, *complete.shape[dim + 1 :])
        if not repeats or complete.shape[dim] % width or tuple(partial.shape) != expected:
            continue
        for channels in (torch.arange(width).repeat_interleave(repeats), torch.arange(width).repeat(repeats)):
            chosen = complete.index_select(dim, torch.isin(channels, some).nonzero()[:, 0])
            if torch.allclose(chosen.double(), partial.double(), rtol=1e-4, atol=1e-5, equal_nan=True):
                return dim, channels
    return None
