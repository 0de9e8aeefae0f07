"""Groups of coupled channels as plain index maps.

All channels of all groups stand in one line, group after group, and behind them, where a transform is asked for, every
layer that may be decomposed. A cut is a boolean vector over that line, `channels` long, true where a channel is kept or
a layer stays whole. For every dimension of every tensor that any group touches, a *source* says for each
index of that dimension which channel of the line it belongs to, or ``ALWAYS`` where it belongs to none. With these,
cutting is slicing, and the width of anything is a sum.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

ALWAYS = -1
"""In a source: this index belongs to no group and is always kept (the last element of a padded cut)."""

Cut = NDArray[np.bool_]
"""Kept channels, then whole layers, shape (channels,): one cut of the whole network."""


@dataclass(frozen=True, eq=False)
class Member:
    """One dimension of one tensor that a group indexes.

    `index[c]` lists the positions that belong to the group's channel `c`, shape (C, m): one for a convolution, one per
    pixel for a linear layer behind a flattened feature map, several for a block of channels that must stay whole.
    """

    tensor: str
    module: str
    dim: int
    side: Literal["out", "in"]
    index: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Group:
    """Channels of one or more layers that must go together; named after the first layer that makes them."""

    name: str
    channels: int
    members: tuple[Member, ...]

    def select_members(self, side: Literal["out", "in"]) -> tuple[Member, ...]:
        return tuple(member for member in self.members if member.side == side)


@dataclass(frozen=True)
class FrozenGroup:
    """A group that is never cut, and why."""

    name: str
    channels: int
    reason: str


@dataclass(frozen=True, eq=False)
class IndexMaps:
    """Every group of a network, and for every tensor dimension they touch, its source.

    Attributes
    ----------
    offsets: (groups + 1,), where each group starts in the line of channels.
    sources: unique index vectors, each shape (length of a dimension,), values ``ALWAYS`` or a channel of the line.
    slices: for each tensor name, (dimension, number of its source) pairs.
    shapes: for each tensor name of the network, its dense shape.
    layers: names of the convolutions that a cut may decompose (structure.depthwise); none where no transform is asked.
    """

    groups: tuple[Group, ...]
    offsets: NDArray[np.int64]
    sources: tuple[NDArray[np.int64], ...]
    slices: dict[str, tuple[tuple[int, int], ...]]
    shapes: Mapping[str, tuple[int, ...]]
    layers: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """Places of the line: one for each channel of each group, and one for each layer that may be decomposed."""
        return int(self.offsets[-1]) + len(self.layers)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Channels of each group, shape (groups,)."""
        return np.diff(self.offsets)

    def make_unpruned_cut(self) -> Cut:
        """The cut that cuts nothing."""
        return np.ones(self.channels, dtype=np.bool_)

    def count_kept(self, cuts: Cut) -> NDArray[np.int64]:
        """Kept channels per group, then 1 for each whole one of `layers`: (..., channels) -> (..., groups + L)."""
        if not len(self.groups):
            return np.zeros((*cuts.shape[:-1], 0), dtype=np.int64)
        lined, whole = np.split(cuts, [self.offsets[-1]], axis=-1)
        kept = np.add.reduceat(lined, self.offsets[:-1], axis=-1, dtype=np.int64)
        return np.concatenate([kept, whole], axis=-1, dtype=np.int64) if self.layers else kept

    def find_decomposed_layers(self, cut: Cut) -> tuple[str, ...]:
        """The layers that `cut` decomposes."""
        return tuple(name for name, whole in zip(self.layers, cut[self.offsets[-1] :], strict=True) if not whole)

    def find_kept_positions(self, cut: Cut) -> list[NDArray[np.int64]]:
        """For each source the positions that the cut keeps, ascending."""
        padded = np.append(cut, True)
        return [np.flatnonzero(padded[source]) for source in self.sources]

    def exclude_groups(self, names: set[str]) -> "IndexMaps":
        """The same maps with these groups left whole."""
        return build_index_maps([group for group in self.groups if group.name not in names], self.shapes)


def build_index_maps(groups: Sequence[Group], shapes: Mapping[str, tuple[int, ...]]) -> IndexMaps:
    """Number the channels of `groups` and gather, per tensor dimension, whose index is whose.

    Dimensions touched by several groups (a layer behind a concatenation) get one source with all of them.
    """
    offsets = np.concatenate([[0], np.cumsum([group.channels for group in groups])]).astype(np.int64)
    sources: dict[tuple[str, int], NDArray[np.int64]] = {}
    for group, start in zip(groups, offsets[:-1], strict=True):
        for member in group.members:
            untouched = np.full(shapes[member.tensor][member.dim], ALWAYS, dtype=np.int64)
            source = sources.setdefault((member.tensor, member.dim), untouched)
            line = start + np.arange(group.channels, dtype=np.int64)
            source[member.index] = line[:, None]
    unique: dict[bytes, int] = {}
    kept: list[NDArray[np.int64]] = []
    slices: dict[str, list[tuple[int, int]]] = {}
    for (tensor, dim), source in sorted(sources.items()):
        number = unique.setdefault(source.tobytes(), len(kept))
        if number == len(kept):
            kept.append(source)
        slices.setdefault(tensor, []).append((dim, number))
    by_tensor = {name: tuple(pairs) for name, pairs in slices.items()}
    return IndexMaps(tuple(groups), offsets, tuple(kept), by_tensor, shapes)


def compute_cut_digest(cut: Cut) -> str:
    """The identity of a pruned network: 32 hexadecimal digits of the SHA-256 of its kept channels."""
    return hashlib.sha256(len(cut).to_bytes(8, "little") + pack_cut(cut)).hexdigest()[:32]


def pack_cut(cut: Cut) -> bytes:
    """A cut as bits, eight channels a byte."""
    return np.packbits(cut).tobytes()


def unpack_cut(bits: bytes, channels: int) -> Cut:
    """The cut of that many channels in `bits`, as `packed` made them."""
    return np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=channels).astype(np.bool_)
