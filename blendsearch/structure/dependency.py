"""Which channels must go together: the labels that were followed through a network, turned into our groups.

What a layer's channels are coupled to is what Fang et al. 2023 call a dependency graph ("DepGraph: Towards Any
Structural Pruning"). Ours is not a graph over layers but a partition of single channels, so that a block of a grouped
convolution, a row of pixels behind a flatten or half of a concatenation are nothing special.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from blendsearch.errors import TraceError
from blendsearch.structure.channel_tracer import MAKERS, ChannelTracer
from blendsearch.structure.groups import FrozenGroup, Group, Member
from blendsearch.structure.union_find import NO_CHANNEL

_EMPTY = np.zeros(0, dtype=np.int64)


def find_coupled_groups(model: nn.Module, example: Tensor) -> tuple[list[Group], list[FrozenGroup]]:
    """The groups of `model` that can be written as index maps, and those that must stay whole.

    `example` is one input, shape (1, channels, height, width). Raises TraceError, with the operation and the module it
    is in, where the network cannot be followed.
    """
    following = ChannelTracer(model)
    try:
        following.trace(example)
    except Exception as error:  # a person's network may do anything
        raise TraceError(
            f"the channels of {type(model).__name__} cannot be followed through {following.location}: "
            f"{type(error).__name__}: {(str(error) or 'no message').splitlines()[0]}; rewrite that operation"
        ) from error
    order = {name: position for position, (name, _) in enumerate(model.named_modules())}
    makers = {name for name, module in model.named_modules() if isinstance(module, MAKERS)}
    reasons = following.union_find.collect_frozen()
    groups: dict[str, Group] = {}
    stopped: dict[tuple[str, str], int] = {}
    for part in _collect_parts(following):
        making = {member.module for member in part.members if member.side == "out"} & makers
        if not making:
            continue  # parameters that meet no layer's channels
        name = min(making, key=lambda module: order[module])
        unread = not any(member.side == "in" for member in part.members)
        free = np.asarray([not unread and root not in reasons for root in part.classes])
        for root in part.classes[~free].tolist():
            key = name, reasons.get(root, "no layer reads its channels")
            stopped[key] = stopped.get(key, 0) + 1
        if free.any():
            members = part.select_members(name, free)
            unique = next(item for item in _generate_names(name) if item not in groups)
            groups[unique] = Group(unique, int(free.sum()), members)
    frozen = [FrozenGroup(name, channels, reason) for (name, reason), channels in stopped.items()]
    return (
        sorted(groups.values(), key=lambda group: order[group.name.partition("#")[0]]),
        sorted(frozen, key=lambda item: order[item.name]),
    )


class _Part(NamedTuple):
    """Classes of labels that touch the same tensors, each as often: the channels of one group.

    `classes` has shape (C,); the members' indexes are by class, in that order.
    """

    classes: NDArray[np.int64]
    members: tuple[Member, ...]

    def select_members(self, maker: str, free: NDArray[np.bool_]) -> tuple[Member, ...]:
        """The members of the free classes alone, in the order in which the layer `maker` makes them."""
        first = next(member for member in self.members if member.module == maker and member.side == "out")
        rows = np.flatnonzero(free)
        rows = rows[np.argsort(first.index[rows, 0])]
        return tuple(Member(item.tensor, item.module, item.dim, item.side, item.index[rows]) for item in self.members)


def _collect_parts(following: ChannelTracer) -> Iterator[_Part]:
    """All classes that some tensor is indexed by, gathered into parts."""
    roots = following.union_find.find_roots()
    claims = list(following.tensor_labels.items())
    owners, numbers, positions = [_EMPTY], [_EMPTY], [_EMPTY]
    for which, (_, labels) in enumerate(claims):
        held = np.flatnonzero(labels != NO_CHANNEL)
        owners.append(roots[labels[held]])
        positions.append(held)
        numbers.append(np.full(len(held), which, dtype=np.int64))
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
        for claim in np.unique(touched):
            (tensor, module, dim, side), _ = claims[claim]
            members.append(Member(tensor, module, dim, side, index[:, touched == claim].astype(np.int64)))
        yield _Part(classes[rows], tuple(members))


def _generate_names(name: str) -> Iterator[str]:
    """The name, and what it is called when other channels of the same layer have it already."""
    yield name
    for number in itertools.count(2):
        yield f"{name}#{number}"
