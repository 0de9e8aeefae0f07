"""Coupling of channels that an operation divides into parts.

Sizes of parts are often computed from the number of channels (`chunk`, ``x[:, : c // 2]``), or are attributes of the
module. Equal places in the parts are then cut together, so that the parts keep their proportion. Parts whose sizes are
items of a list of the module are cut apart from each other. This is an assumption about code that is not visible here.
The verification of a group refutes it where it is wrong.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from blendsearch.structure.channel_state import ChannelState
from blendsearch.structure.labels import get_vector
from blendsearch.structure.operation import Operation

HEADS = "head"
"""Part of the name of an attribute that counts heads of attention: they are cut whole."""


def couple_parts(tracer: ChannelState, operation: Operation, labels: Tensor) -> bool:
    """Unite channels at equal places of the parts that `operation` makes; return False if they cannot be united."""
    vector = get_vector(labels)
    if vector is None:
        return False
    dim, channels = vector
    if operation.name in ("split", "split_with_sizes", "slice"):
        return _couple_slices(tracer, operation, dim, channels)
    if operation.name == "channel_shuffle":
        return _couple_repeats(tracer, operation, channels.reshape(operation.args[1], -1))
    if operation.name in ("view", "_unsafe_view", "_reshape_alias"):
        return _couple_view(tracer, operation, dim, channels)
    return False


def _couple_slices(tracer: ChannelState, operation: Operation, dim: int, channels: Tensor) -> bool:
    width = len(channels)
    if operation.name == "slice":
        given: list[Any] = [*operation.args[1:], *(0, None, None, 1)[len(operation.args) - 1 :]]
        sliced, start, end, step = given
        start = _clip_edge(start or 0, width)
        end = _clip_edge(width if end is None else end, width)
        if step != 1 or sliced % operation.args[0].ndim != dim:
            return False
        sizes = [start, end - start, width - end]
    else:
        sizes = [tensor.shape[dim] for tensor in operation.outputs]
    parts = torch.split(channels, sizes)
    if operation.name == "split_with_sizes" and tracer.record_parts(sizes, parts):
        tracer.union_find.assume(channels, f"{operation.location} splits or reorders its channels")
        return True
    unit = math.gcd(*sizes)
    if not _couple_repeats(tracer, operation, channels.reshape(-1, unit)):
        return _couple_equal_parts(tracer, operation, parts)
    for size in {*sizes, width} - {0}:
        tracer.record_sizes(size, channels[:size])
    return True


def _couple_equal_parts(tracer: ChannelState, operation: Operation, parts: Sequence[Tensor]) -> bool:
    """Unite the channels of parts whose size is an attribute, and freeze the others; return False without such parts.

    A score beside keys and values, for example, is a part of constant size.
    """
    sizes = {len(part) for part in parts if len(part) > 1 and tracer.has_size(len(part), "")}
    if operation.name != "split_with_sizes" or not sizes:
        return False
    for size in sizes:
        rows = torch.stack([part for part in parts if len(part) == size])
        tracer.union_find.unite(rows[:1].expand_as(rows), rows, operation.location)
        tracer.union_find.assume(rows, f"{operation.location} splits or reorders its channels")
        tracer.record_sizes(size, rows[0])
    for part in parts:
        if len(part) not in sizes:
            tracer.union_find.freeze(part, f"{operation.location} splits or reorders its channels")
    return True


def _clip_edge(edge: int, width: int) -> int:
    return min(max(edge + width if edge < 0 else edge, 0), width)


def _couple_view(tracer: ChannelState, operation: Operation, dim: int, channels: Tensor) -> bool:
    before, after = operation.args[0].shape, operation.outputs[0].shape
    first = _find_dim(after, math.prod(before[:dim]))
    last = _find_dim(after, math.prod(before[: dim + 1]))
    parts = after[first:last]
    if math.prod(parts) != len(channels) or sum(size > 1 for size in parts) < 2:
        return False
    counted = [place for place, size in enumerate(parts) if size > 1 and tracer.has_size(size, HEADS)]
    variable = counted[-1] if counted else max(range(len(parts)), key=lambda place: (parts[place], place))
    rows = channels.reshape(parts).movedim(variable, -1).reshape(-1, parts[variable])
    if not _couple_repeats(tracer, operation, rows):
        return False
    tracer.record_sizes(parts[variable], rows[0])
    tracer.record_sizes(len(channels), channels)
    return True


def _find_dim(shape: torch.Size, elements: int) -> int:
    """Return the number of leading dimensions that hold `elements`, or all of them."""
    return next((count for count in range(len(shape) + 1) if math.prod(shape[:count]) == elements), len(shape))


def _couple_repeats(tracer: ChannelState, operation: Operation, rows: Tensor) -> bool:
    """Unite the channels in each column of `rows`, (parts, channels of a part)."""
    if rows.shape[0] < 2 or rows.shape[1] < 2:
        return False
    tracer.union_find.unite(rows[:1].expand_as(rows), rows, operation.location)
    tracer.union_find.assume(rows, f"{operation.location} splits or reorders its channels")
    return True
