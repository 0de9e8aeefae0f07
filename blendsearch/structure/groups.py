"""Groups of coupled channels as index maps.

All channels of all groups form one line, group after group. With a transform, every layer that may be decomposed has a
place behind them. A cut is a boolean vector over that line, (channels,): true for a kept channel or an undecomposed
layer. For every dimension of every tensor that a group touches, a *source* gives, for each index of that dimension, its
channel in the line, or ``ALWAYS`` if it belongs to none. With sources, cutting is slicing, and a width is a sum.
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
"""Kept channels, then undecomposed layers, (channels,): one cut of the network."""


@dataclass(frozen=True, eq=False)
class Member:
    """One dimension of one tensor that a group indexes.

    `index[c]` lists the positions that belong to the group's channel `c`: (C, m). m is 1 for a convolution, the number
    of pixels for a linear layer behind a flattened feature map, and more than 1 for a block of channels that go
    together. With the side ``size``, `tensor` is an integer attribute with a position for each unit; with
    ``cost``, a product of activations with a position for each channel; with ``statistic``, a reduction over channels.
    """

    tensor: str
    module: str
    dim: int
    side: Literal["out", "in", "size", "cost", "statistic"]
    index: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Group:
    """Channels of one or more layers that must be cut together; named after the first layer that makes them.

    `assumption`: on what the coupling rests where it cannot be seen (`structure.channel_parts`); else empty.
    """

    name: str
    channels: int
    members: tuple[Member, ...]
    assumption: str = ""

    def select_members(self, side: Literal["out", "in"]) -> tuple[Member, ...]:
        """Return the members that make (``out``) or read (``in``) the channels."""
        return tuple(member for member in self.members if member.side == side)


@dataclass(frozen=True)
class FrozenGroup:
    """A group that is never cut, and the reason."""

    name: str
    channels: int
    reason: str


@dataclass(frozen=True, eq=False)
class IndexMaps:
    """Groups of a network, and the source of every tensor dimension they touch.

    Attributes
    ----------
    offsets: (groups + 1,), start of each group in the line of channels.
    sources: unique index vectors, each (length of a dimension,), values ``ALWAYS`` or a channel of the line.
    slices: for each tensor name, pairs (dimension, number of its source).
    shapes: for each tensor name of the network, its dense shape.
    layers: names of convolutions that a cut may decompose (`structure.depthwise`); empty without a transform.
    blocks: for each block that a cut may remove (`structure.residual_blocks`), the numbers of the groups inside it.
    """

    groups: tuple[Group, ...]
    offsets: NDArray[np.int64]
    sources: tuple[NDArray[np.int64], ...]
    slices: dict[str, tuple[tuple[int, int], ...]]
    shapes: Mapping[str, tuple[int, ...]]
    layers: tuple[str, ...] = ()
    blocks: tuple[tuple[int, ...], ...] = ()

    @property
    def channels(self) -> int:
        """Length of the line: channels of all groups, plus layers that may be decomposed."""
        return int(self.offsets[-1]) + len(self.layers)

    def check_channels(self, cut: Cut) -> None:
        """Raise ValueError where `cut` keeps no channel of a group that is not inside a removable block."""
        removable = {number for block in self.blocks for number in block}
        for number in np.flatnonzero(self.count_kept(cut)[: len(self.groups)] == 0).tolist():
            if number not in removable:
                raise ValueError(f"the cut keeps no channel of {self.groups[number].name}")

    @property
    def sized(self) -> tuple[str, ...]:
        """Names of integer attributes that follow a cut."""
        return tuple(sorted({item.tensor for group in self.groups for item in group.members if item.side == "size"}))

    @property
    def statistics(self) -> tuple[str, ...]:
        """Names of reductions over channels."""
        members = (item for group in self.groups for item in group.members)
        return tuple(sorted({item.tensor for item in members if item.side == "statistic"}))

    def list_size_sources(self) -> dict[str, NDArray[np.int64]]:
        """Return the source of each integer attribute that follows a cut, by its name."""
        return {name: self.sources[self.slices[name][0][1]] for name in self.sized}

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Channels of each group, (groups,)."""
        return np.diff(self.offsets)

    def make_unpruned_cut(self) -> Cut:
        """Make the cut that keeps everything."""
        return np.ones(self.channels, dtype=np.bool_)

    def count_kept(self, cuts: Cut) -> NDArray[np.int64]:
        """Count kept channels per group, then 1 for each undecomposed layer: (..., channels) -> (..., groups + L)."""
        if not len(self.groups):
            return np.zeros((*cuts.shape[:-1], 0), dtype=np.int64)
        lined, undecomposed = np.split(cuts, [self.offsets[-1]], axis=-1)
        kept = np.add.reduceat(lined, self.offsets[:-1], axis=-1, dtype=np.int64)
        return np.concatenate([kept, undecomposed], axis=-1, dtype=np.int64) if self.layers else kept

    def find_decomposed_layers(self, cut: Cut) -> tuple[str, ...]:
        """Return the names of the layers that `cut` decomposes."""
        return tuple(
            name for name, undecomposed in zip(self.layers, cut[self.offsets[-1] :], strict=True) if not undecomposed
        )

    def find_kept_positions(self, cut: Cut) -> list[NDArray[np.int64]]:
        """Return, for each source, the positions that the cut keeps, ascending."""
        padded = np.append(cut, True)
        return [np.flatnonzero(padded[source]) for source in self.sources]

    def exclude_groups(self, names: set[str]) -> "IndexMaps":
        """Return the same maps without these groups, which are then never cut."""
        return build_index_maps([group for group in self.groups if group.name not in names], self.shapes)


def build_index_maps(groups: Sequence[Group], shapes: Mapping[str, tuple[int, ...]]) -> IndexMaps:
    """Number the channels of `groups` and build the source of every tensor dimension they touch.

    Dimensions that several groups touch (a layer behind a concatenation) have one source with all of them.
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
    """Return the identity of a pruned network: 32 hexadecimal digits of the SHA-256 of its cut."""
    return hashlib.sha256(len(cut).to_bytes(8, "little") + pack_cut(cut)).hexdigest()[:32]


def pack_cut(cut: Cut) -> bytes:
    """Pack a cut to bits, eight channels per byte."""
    return np.packbits(cut).tobytes()


def unpack_cut(bits: bytes, channels: int) -> Cut:
    """Unpack a cut of `channels` channels from the bits of `pack_cut`."""
    return np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=channels).astype(np.bool_)
