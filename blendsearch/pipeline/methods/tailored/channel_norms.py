"""The parameters that can silence a channel, and their norms."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blendsearch.structure.groups import Group, IndexMaps
from blendsearch.structure.surgery import copy_with_tensors, narrow

TOLERANCE = 1e-3
"""Largest difference between the outputs of a silenced and a cut network, in units of their spread."""

Vector = NDArray[np.float64]
TensorAxis = tuple[str, int]
"""A tensor and one of its dimensions."""
ChannelAxis = tuple[str, int, NDArray[np.int64]]
"""A tensor, one of its dimensions, and for each index there the channel of the line, or -1."""


class ChannelScaler:
    """The tensors of every group whose slices, all zero, silence a channel exactly as a cut does.

    These are the scales and shifts of all batch-norms that the coupled channels pass; where there are none, the weights
    that read the channel. Where neither silences a channel (with parameter-free shortcuts at both ends), the group is
    one of `unscalable_groups`, (groups,), and is not regularized.

    Norms are relative to their group's mean: the layers behind a batch-norm compensate a scale that all its channels
    share, so only differences between channels matter.

    `images`, (n, ...), are used to compare a silenced network with a cut one.
    """

    def __init__(self, model: nn.Module, maps: IndexMaps, images: Tensor) -> None:
        self.maps, self.channels = maps, maps.channels
        self.group_index = np.repeat(np.arange(len(maps.groups)), maps.sizes)
        normed = [_list_batch_norms(model, group) for group in maps.groups]
        reading = [_list_readers(group) for group in maps.groups]
        by_norm = self._select_by_norm(model, normed, images)
        by_reader = _select_by_reader(model, reading) - by_norm
        groups = range(len(maps.groups))
        self.unscalable_groups = np.array([number not in by_norm | by_reader for number in groups])
        chosen = [normed[number] if number in by_norm else reading[number] for number in groups]
        self.axes = [
            self._index_channels(place, number) for number in sorted(by_norm | by_reader) for place in chosen[number]
        ]

    def compute_norms(self, module: nn.Module) -> Vector:
        """Compute each channel's norm over its group's mean, (channels,); 0 if silent, 1 in unscalable groups."""
        tensors = dict(module.named_parameters())
        squares = np.zeros(self.channels)
        for name, dim, channels in self.axes:
            tensor = tensors[name].detach()
            others = [number for number in range(tensor.ndim) if number != dim]
            rows = torch.linalg.vector_norm(tensor, dim=others) if others else tensor
            there = channels >= 0
            np.add.at(squares, channels[there], rows.double().square().cpu().numpy()[there])
        norms = np.where(self.unscalable_groups[self.group_index], 1.0, np.sqrt(squares))
        mean = np.bincount(self.group_index, norms) / self.maps.sizes
        return np.asarray(norms / np.maximum(mean, 1e-12)[self.group_index])

    def scale(self, module: nn.Module, factors: Vector) -> None:
        """Multiply the parameters of each channel by its factor, (channels,), in place; 0 and 1 are exact."""
        tensors = dict(module.named_parameters())
        with torch.no_grad():
            for name, dim, channels in self.axes:
                tensor = tensors[name]
                by_index = np.where(channels >= 0, factors[channels], 1.0)
                shape = [1] * tensor.ndim
                shape[dim] = -1
                tensor.mul_(torch.from_numpy(by_index).to(tensor).view(shape))

    def _select_by_norm(self, model: nn.Module, normed: Sequence[list[TensorAxis]], images: Tensor) -> set[int]:
        """Select the groups whose batch-norms silence their channels exactly, all of them together."""
        found = {number for number, axes in enumerate(normed) if axes}
        if self._is_silencing_exact(model, sorted(found), normed, images):
            return found
        alone = {number for number in found if self._is_silencing_exact(model, [number], normed, images)}
        return alone if self._is_silencing_exact(model, sorted(alone), normed, images) else set()

    def _index_channels(self, name_dim: TensorAxis, number: int) -> ChannelAxis:
        """Index the channels of one group in a tensor; -1 at the places of other groups."""
        name, dim = name_dim
        start = self.maps.offsets[number]
        channels = np.full(self.maps.shapes[name][dim], -1, dtype=np.int64)
        for member in self.maps.groups[number].members:
            if (member.tensor, member.dim) == name_dim:
                channels[member.index] = (start + np.arange(self.maps.groups[number].channels))[:, None]
        return name, dim, channels

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
                name, dim, channels = self._index_channels(place, number)
                gone = np.flatnonzero((channels >= 0) & ~cut[channels])
                zeroed.setdefault(name, []).append((dim, gone))
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
