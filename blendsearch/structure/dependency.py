"""Groups of coupled channels, from the labels that the channel tracer followed through a network.

Fang et al. 2023 ("DepGraph: Towards Any Structural Pruning") describe coupling as a graph over layers. This module
partitions single channels instead. Blocks of a grouped convolution, pixels behind a flatten and parts of a
concatenation therefore need no special case.
"""

import itertools
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from blendsearch.errors import TraceError, format_error
from blendsearch.structure.channel_tracer import ChannelTracer
from blendsearch.structure.groups import FrozenGroup, Group, Member
from blendsearch.structure.layer_types import MAKERS
from blendsearch.structure.union_find import NO_CHANNEL

_EMPTY = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class CoupledGroups:
    """Groups of a network as index maps, frozen groups, and layers that no example reached.

    `undecided`: modules that read numbers of activations, and decide the same way on all examples.
    `sizes`: the values of integer attributes that follow a cut, by name. `products`: the multiply-accumulates per
    channel of products of activations, by name; `widths`: their channels, and those of reductions over channels.
    """

    groups: list[Group]
    frozen: list[FrozenGroup]
    unreached: list[str]
    undecided: list[str]
    sizes: dict[str, int]
    products: dict[str, int]
    widths: dict[str, int]


def find_coupled_groups(model: nn.Module, examples: Sequence[Tensor]) -> CoupledGroups:
    """Find the groups of `model` that can be written as index maps, and those that are frozen.

    Each of `examples` is one input, (1, channels, height, width). Raises TraceError, with the operation and its module,
    if the network cannot be traced.
    """
    tracer = ChannelTracer(model)
    try:
        tracer.trace(examples)
    except Exception as error:  # user-defined networks may raise anything
        raise TraceError(
            f"the channels of {type(model).__name__} cannot be traced through {tracer.location}: "
            f"{format_error(error)}; rewrite that operation"
        ) from error
    order = {name: position for position, (name, _) in enumerate(model.named_modules())}
    makers = {name for name, module in model.named_modules() if isinstance(module, MAKERS)}
    reasons, assumptions = tracer.union_find.collect_frozen(), tracer.union_find.collect_assumptions()
    groups: dict[str, tuple[Group, int]] = {}
    frozen_channels: dict[tuple[str, str], int] = {}
    for part in _collect_parts(tracer):
        making = {member.module for member in part.members if member.side == "out"} & makers
        if not making:
            continue  # parameters that are not coupled to a layer's channels
        name = min(making, key=lambda module: order[module])
        unread = not any(member.side == "in" for member in part.members)
        free = np.asarray([not unread and root not in reasons for root in part.classes])
        assumption = next((assumptions[root] for root in part.classes.tolist() if root in assumptions), "")
        if len(part.classes) == 1 and assumption and free.any():
            key = name, f"{assumption}, which couples all of them"
            frozen_channels[key] = frozen_channels.get(key, 0) + part.count_channels(name)
            continue
        for root in part.classes[~free].tolist():
            key = name, reasons.get(root, "no layer reads its channels")
            frozen_channels[key] = frozen_channels.get(key, 0) + 1
        if free.any():
            members = part.select_members(name, free)
            unique = next(item for item in _generate_names(name, set(order)) if item not in groups)
            groups[unique] = Group(unique, int(free.sum()), members, assumption), order[name]
    frozen = [FrozenGroup(name, channels, reason) for (name, reason), channels in frozen_channels.items()]
    return CoupledGroups(
        [group for group, _ in sorted(groups.values(), key=lambda item: item[1])],
        sorted(frozen, key=lambda item: order[item.name]),
        tracer.reached.list_unreached(),
        tracer.undecided,
        _list_widths(tracer, "size"),
        tracer.products,
        _list_widths(tracer, "cost") | _list_widths(tracer, "statistic"),
    )


def _list_widths(tracer: ChannelTracer, chosen: str) -> dict[str, int]:
    return {tensor: len(labels) for (tensor, *_, side), labels in tracer.tensor_labels.items() if side == chosen}


class _Part(NamedTuple):
    """Classes of labels that touch the same tensors equally often: the channels of one group.

    `classes` has shape (C,); the members' indexes are in the order of the classes.
    """

    classes: NDArray[np.int64]
    members: tuple[Member, ...]

    def count_channels(self, maker: str) -> int:
        """Count the channels that the layer `maker` makes."""
        return sum(item.index.size for item in self.members if item.tensor == f"{maker}.weight" and item.side == "out")

    def select_members(self, maker: str, free: NDArray[np.bool_]) -> tuple[Member, ...]:
        """Return the members of the free classes only, in the order in which the layer `maker` makes them."""
        first = next(member for member in self.members if member.module == maker and member.side == "out")
        rows = np.flatnonzero(free)
        rows = rows[np.argsort(first.index[rows, 0])]
        return tuple(Member(item.tensor, item.module, item.dim, item.side, item.index[rows]) for item in self.members)


def _collect_parts(tracer: ChannelTracer) -> Iterator[_Part]:
    """Collect all classes that index a tensor into parts."""
    roots = tracer.union_find.find_roots()
    records = list(tracer.tensor_labels.items())
    owners, numbers, positions = [_EMPTY], [_EMPTY], [_EMPTY]
    for record, (_, labels) in enumerate(records):
        labelled = np.flatnonzero(labels != NO_CHANNEL)
        owners.append(roots[labels[labelled]])
        positions.append(labelled)
        numbers.append(np.full(len(labelled), record, dtype=np.int64))
    owner, number, position = np.concatenate(owners), np.concatenate(numbers), np.concatenate(positions)
    line = np.lexsort((position, number, owner))
    owner, number, position = owner[line], number[line], position[line]
    classes, starts = np.unique(owner, return_index=True)
    alike: dict[bytes, list[int]] = {}
    for row, (start, end) in enumerate(zip(starts, np.append(starts, len(owner))[1:], strict=True)):
        alike.setdefault(number[start:end].tobytes(), []).append(row)
    for signature, rows in alike.items():
        touched = np.frombuffer(signature, dtype=number.dtype)
        index = np.stack([position[starts[row] : starts[row] + len(touched)] for row in rows])
        members = []
        for record in np.unique(touched):
            (tensor, module, dim, side), _ = records[record]
            members.append(Member(tensor, module, dim, side, index[:, touched == record].astype(np.int64)))
        yield _Part(classes[rows], tuple(members))


def _generate_names(name: str, modules: Set[str]) -> Iterator[str]:
    """Yield the name, then numbered variants for further groups of the same layer, which no module has."""
    yield name
    for number in itertools.count(2):
        if f"{name}#{number}" not in modules:
            yield f"{name}#{number}"
