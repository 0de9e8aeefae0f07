"""Magnitudes and inverse gradients of a network's filters: per channel, per group, batch by batch."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blendsearch.structure.groups import ALWAYS, Cut, IndexMaps
from blendsearch.task import Task

FLOOR = 1e-3
"""Lower bound of gradients, relative to their group's mean magnitude: else a few would dominate the mean of 1/|g|."""

Vector = NDArray[np.float64]


class GradientStats(NamedTuple):
    """Losses of batches, (n,), and the means of 1/|gradient| over the weights of each group's filters, (n, groups).

    A mean is infinite where the loss does not depend on the group.
    """

    losses: Vector
    inverses: Vector


class Filters:
    """The positions of each channel's filters in the weights of `module`, a network that was cut to `cut`.

    Buffers that channels index too (the links of a padded shortcut) hold no filters: they are not trained.
    """

    def __init__(self, maps: IndexMaps, cut: Cut, module: nn.Module) -> None:
        self.maps = maps
        self.group_index = np.repeat(np.arange(len(maps.groups)), maps.sizes)
        kept = maps.find_kept_positions(cut)
        trained = {name for name, _ in module.named_parameters()}
        sources = {(name, dim): number for name, pairs in maps.slices.items() for dim, number in pairs}
        self.rows: list[tuple[str, int, NDArray[np.int64]]] = []  # tensor, its dimension, the channel of each row
        for name, dim in dict.fromkeys(
            (member.tensor, member.dim)
            for group in maps.groups
            for member in group.select_members("out")
            if len(maps.shapes[member.tensor]) > 1 and member.tensor in trained
        ):
            number = sources[name, dim]
            self.rows.append((name, dim, maps.sources[number][kept[number]]))

    def compute_l1_norms(self, module: nn.Module) -> Vector:
        """Sum the absolute values of each channel's filters, (channels,); 0 where it is cut."""
        weights = dict(module.named_parameters())
        return self._sum_by_channel({name: weights[name].detach().abs() for name, _, _ in self.rows})

    def count_weights(self, module: nn.Module) -> Vector:
        """Count the weights of each group's filters, (groups,)."""
        weights = dict(module.named_parameters())
        return self._sum_by_group(
            self._sum_by_channel({name: torch.ones_like(weights[name]) for name, _, _ in self.rows})
        )

    def compute_inverse_gradients(self, module: nn.Module) -> Vector:
        """Compute the mean of 1/|gradient| over the weights of each group's filters, (groups,)."""
        weights = dict(module.named_parameters())
        slopes = {name: _get_gradient(weights[name]).abs().double() for name, _, _ in self.rows}
        count = self.count_weights(module)
        mean = self._sum_by_group(self._sum_by_channel(slopes)) / count
        inverted = {}
        for name, dim, channels in self.rows:
            least = np.where(channels == ALWAYS, 0.0, FLOOR * mean[self.group_index[channels]])
            shape = [1] * slopes[name].ndim
            shape[dim] = -1
            floor = torch.from_numpy(least).to(slopes[name].device).view(shape)
            inverted[name] = 1 / torch.maximum(slopes[name], floor)
        with np.errstate(invalid="ignore"):
            found = self._sum_by_group(self._sum_by_channel(inverted)) / count
        return np.where(mean > 0, found, np.inf)

    def _sum_by_channel(self, tensors: dict[str, Tensor]) -> Vector:
        """Sum the values of each channel, (channels,)."""
        total = np.zeros(self.maps.channels)
        for name, dim, channels in self.rows:
            values = tensors[name].movedim(dim, 0).flatten(1).double().sum(dim=1).cpu().numpy()
            mine = channels != ALWAYS
            np.add.at(total, channels[mine], values[mine])
        return total

    def _sum_by_group(self, values: Vector) -> Vector:
        return np.asarray(np.bincount(self.group_index, values, minlength=len(self.maps.groups)), dtype=np.float64)


def measure_gradients(
    module: nn.Module, filters: Filters, task: Task, batches: Iterable[tuple[Tensor, Tensor]]
) -> GradientStats:
    """Measure loss and inverse gradients on each of `batches`, in evaluation mode; `module` is not changed."""
    losses, inverses = [], []
    module.eval()
    with torch.enable_grad():
        for images, labels in batches:
            module.zero_grad(set_to_none=True)
            loss = task.compute_mean_loss(module(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(float(loss.detach()))
            inverses.append(filters.compute_inverse_gradients(module))
    module.zero_grad(set_to_none=True)
    return GradientStats(np.array(losses), np.array(inverses))


def _get_gradient(weight: nn.Parameter) -> Tensor:
    return torch.zeros_like(weight) if weight.grad is None else weight.grad
