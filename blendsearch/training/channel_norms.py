"""The parameters that can silence a channel, and their norms."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blendsearch.structure.groups import Cut, Group, IndexMaps
from blendsearch.structure.surgery import copy_with_tensors, narrow

TOLERANCE = 1e-3
"""Largest difference between the outputs of a silenced and a cut network, in units of their spread."""

Vector = NDArray[np.float64]
TensorAxis = tuple[str, int]
"""A tensor and one of its dimensions."""


@dataclass(frozen=True, eq=False)
class ChannelAxis:
    """One dimension of a tensor whose indices are channels of one group.

    Attributes
    ----------
    channels: channel of the line at each index of the unpruned tensor; -1 at the places of other groups.
    source: number of the dimension's source in the index maps.
    """

    tensor: str
    dim: int
    channels: NDArray[np.int64]
    source: int


class ChannelScaler:
    """The tensors of every group whose slices, all zero, silence a channel exactly as a cut does.

    These are the scales and shifts of all batch-norms that the coupled channels pass; where there are none, the weights
    that read the channel. Where neither silences a channel (with parameter-free shortcuts at both ends), the group is
    one of `unscalable_groups`, (groups,), and is not regularized. With `inexact`, these groups are scaled too, through
    all of their batch-norms and reading weights; at zero, what passes parameter-free shortcuts remains.

    Norms are relative to their group's mean: the layers behind a batch-norm compensate a scale that all its channels
    share, so only differences between channels matter.

    Methods that receive a `cut` expect a module that was already cut by it; factors and norms are still those of the
    whole line.

    `images`, (n, ...), are used to compare a silenced network with a cut one.
    """

    def __init__(self, model: nn.Module, maps: IndexMaps, images: Tensor, *, inexact: bool = False) -> None:
        self.maps, self.channels = maps, maps.channels
        self.group_index = np.repeat(np.arange(len(maps.groups)), maps.sizes)
        normed = [_list_batch_norms(model, group) for group in maps.groups]
        reading = [_list_readers(group) for group in maps.groups]
        by_norm = self._select_by_norm(model, normed, images)
        by_reader = _select_by_reader(model, reading) - by_norm
        exact = by_norm | by_reader
        chosen = [normed[number] if number in by_norm else reading[number] for number in range(len(maps.groups))]
        if inexact:
            names = {name for name, _ in model.named_parameters()}
            for number in set(range(len(maps.groups))) - exact:
                chosen[number] = [place for place in normed[number] + reading[number] if place[0] in names]
        scaled = [number for number, places in enumerate(chosen) if places and (inexact or number in exact)]
        self.unscalable_groups = np.array([number not in scaled for number in range(len(maps.groups))])
        self.inexact_groups = np.array([number not in exact for number in range(len(maps.groups))])
        self.axes = [self._index_channels(place, number) for number in scaled for place in chosen[number]]

    def compute_norms(self, module: nn.Module, cut: Cut | None = None) -> Vector:
        """Compute each channel's norm over its group's mean, (channels,); 0 if silent, 1 in unscalable groups."""
        tensors = dict(module.named_parameters())
        squares = np.zeros(self.channels)
        for axis, channels in zip(self.axes, self._find_channels(cut), strict=True):
            tensor = tensors[axis.tensor].detach()
            others = [number for number in range(tensor.ndim) if number != axis.dim]
            rows = torch.linalg.vector_norm(tensor, dim=others) if others else tensor
            there = channels >= 0
            np.add.at(squares, channels[there], rows.double().square().cpu().numpy()[there])
        norms = np.where(self.unscalable_groups[self.group_index], 1.0, np.sqrt(squares))
        mean = np.bincount(self.group_index, norms) / self.maps.sizes
        return np.asarray(norms / np.maximum(mean, 1e-12)[self.group_index])

    def scale(self, module: nn.Module, factors: Vector, cut: Cut | None = None) -> None:
        """Multiply the parameters of each channel by its factor, (channels,), in place; 0 and 1 are exact."""
        tensors = dict(module.named_parameters())
        with torch.no_grad():
            for axis, channels in zip(self.axes, self._find_channels(cut), strict=True):
                tensor = tensors[axis.tensor]
                by_index = np.where(channels >= 0, factors[channels], 1.0)
                tensor.mul_(_align(by_index, axis.dim, tensor))

    def make_masks(self, module: nn.Module, chosen: Cut, cut: Cut | None = None) -> list[tuple[nn.Parameter, Tensor]]:
        """Return each parameter that scales a channel of `chosen`, (channels,), with a mask that is 1 there, else 0.

        Masks have the parameter's type and device, and broadcast to its shape.
        """
        parameters = dict(module.named_parameters())
        masks: list[tuple[nn.Parameter, Tensor]] = []
        for axis, channels in zip(self.axes, self._find_channels(cut), strict=True):
            wanted = (channels >= 0) & chosen[channels]
            if wanted.any():
                parameter = parameters[axis.tensor]
                masks.append((parameter, _align(wanted, axis.dim, parameter)))
        return masks

    def _find_channels(self, cut: Cut | None) -> list[NDArray[np.int64]]:
        """Return, for each axis, the channel of the line at each index of a module that was cut by `cut`."""
        if cut is None:
            return [axis.channels for axis in self.axes]
        kept = self.maps.find_kept_positions(cut)
        return [axis.channels[kept[axis.source]] for axis in self.axes]

    def _select_by_norm(self, model: nn.Module, normed: Sequence[list[TensorAxis]], images: Tensor) -> set[int]:
        """Select the groups whose batch-norms silence their channels exactly, all of them together."""
        found = {number for number, axes in enumerate(normed) if axes}
        if self._is_silencing_exact(model, sorted(found), normed, images):
            return found
        alone = {number for number in found if self._is_silencing_exact(model, [number], normed, images)}
        return alone if self._is_silencing_exact(model, sorted(alone), normed, images) else set()

    def _index_channels(self, place: TensorAxis, number: int) -> ChannelAxis:
        """Index the channels of one group in a tensor."""
        name, dim = place
        start = self.maps.offsets[number]
        channels = np.full(self.maps.shapes[name][dim], -1, dtype=np.int64)
        for member in self.maps.groups[number].members:
            if (member.tensor, member.dim) == place:
                channels[member.index] = (start + np.arange(self.maps.groups[number].channels))[:, None]
        return ChannelAxis(name, dim, channels, dict(self.maps.slices[name])[dim])

    def _is_silencing_exact(
        self, model: nn.Module, groups: list[int], norm_axes: Sequence[list[TensorAxis]], images: Tensor
    ) -> bool:
        """Return whether zeros in the batch-norms of half the channels of `groups` equal a cut of these."""
        cut = self.maps.make_unpruned_cut()
        rng = np.random.default_rng(0)
        zeroed: dict[str, list[tuple[int, NDArray[np.int64]]]] = {}
        for number in groups:
            start, size = self.maps.offsets[number], self.maps.groups[number].channels
            cut[start + rng.permutation(size)[: size // 2]] = False
            for place in norm_axes[number]:
                axis = self._index_channels(place, number)
                gone = np.flatnonzero((axis.channels >= 0) & ~cut[axis.channels])
                zeroed.setdefault(axis.tensor, []).append((axis.dim, gone))
        names = {id(tensor): name for name, tensor in model.named_parameters()}

        def zero_channels(tensor: Tensor) -> Tensor:
            out = tensor.detach().clone()
            for dim, gone in zeroed.get(names.get(id(tensor), ""), ()):
                out.index_fill_(dim, torch.from_numpy(gone).to(out.device), 0)
            return out

        with torch.inference_mode():
            expected = narrow(model, self.maps, cut).eval()(images)
            found = copy_with_tensors(model, zero_channels).eval()(images)
        return float((expected - found).abs().max()) <= TOLERANCE * (float(expected.std()) or 1.0)


def make_example_images(shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """Make two random images of `shape` (height, width, channels), for `ChannelScaler`."""
    height, width, channels = shape
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(0)).to(device)


def _align(values: NDArray[np.generic], dim: int, tensor: Tensor) -> Tensor:
    """Return `values` as a tensor like `tensor` that broadcasts along all dimensions but `dim`."""
    shape = [1] * tensor.ndim
    shape[dim] = -1
    return torch.from_numpy(values).to(tensor).view(shape)


def _select_by_reader(model: nn.Module, reading: Sequence[list[TensorAxis]]) -> set[int]:
    """Select the groups that are read by parameters of the model alone."""
    parameters = {name for name, _ in model.named_parameters()}
    return {number for number, axes in enumerate(reading) if {name for name, _ in axes} <= parameters}


def _list_batch_norms(model: nn.Module, group: Group) -> list[TensorAxis]:
    """List the scales and shifts of the group's batch-norms."""
    names = {name for name, _ in model.named_parameters()}
    return [
        (member.tensor, member.dim)
        for member in group.members
        if member.tensor in names and isinstance(model.get_submodule(member.module), nn.modules.batchnorm._BatchNorm)
    ]


def _list_readers(group: Group) -> list[TensorAxis]:
    """List the weights that read the group's channels."""
    return list(dict.fromkeys((member.tensor, member.dim) for member in group.select_members("in")))
