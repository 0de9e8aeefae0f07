"""Statistics of a layer's input, by the channels of a group, accumulated batch by batch."""

from collections.abc import Set
from math import isqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blendsearch.criteria.contributions import sample_contributions
from blendsearch.criteria.feature_map import compute_map_ranks, compute_nuclear_norm_changes
from blendsearch.criteria.needs import Need

POOLED_IMAGES = 2048
"""Largest number of images whose pooled activations are kept; their range is known only at the end."""


class ActivationStats:
    """Statistics of a group's channels at the input of one layer that reads them, each (C,) unless stated otherwise.

    Means are over images. Reading a statistic that no criterion of the pool named as a need raises AttributeError.

    Attributes
    ----------
    module: name of the layer.
    mean, square: mean of the activation, and of its square, over positions.
    zeros: share of positions at which the activation is not above zero, in [0, 1].
    pooled: mean of the activation over positions per image, (images, C); at most `POOLED_IMAGES` images.
    rank: rank of the feature map, in [0, min(height, width)].
    independence: change of the nuclear norm of all C flattened feature maps when this one is zeroed.
    contributions: contributions to sampled outputs of the layer, (samples, C).
    """

    module: str
    mean: Tensor
    square: Tensor
    zeros: Tensor
    pooled: Tensor
    rank: Tensor
    independence: Tensor
    contributions: Tensor

    def __init__(self, module: str, statistics: dict[str, Tensor]) -> None:
        self.module = module
        self.__dict__.update(statistics)

    def __getattr__(self, name: str) -> Tensor:
        raise AttributeError(f"the probe has no {name!r} of this layer: name it in needs= when registering")


class StatsAccumulator:
    """Accumulates statistics over batches for one layer that reads one group."""

    def __init__(self, name: str, module: nn.Module, index: NDArray[np.int64], needs: Set[Need]) -> None:
        self.name = name
        self.module = module
        self.index = index
        self.needs = needs
        self._sums: dict[str, Tensor] = {}
        self._images: dict[str, int] = {}
        self._rows: dict[str, list[Tensor]] = {}

    def add_batch(self, activation: Tensor, first_image: int, subsample_rows: list[int]) -> None:
        """Add a batch whose first image has the number `first_image`; `subsample_rows` are its rows in the
        sub-sample.
        """
        maps = extract_channel_maps(self.module, activation, self.index)
        flat = maps.flatten(2)
        positions = flat.shape[2]
        if self.needs & {"activations", "pooled"}:
            mean = flat.mean(dim=2)
        if "activations" in self.needs:
            self._add("mean", mean)
            # a norm needs no temporary tensor of the activation's size
            self._add("square", torch.linalg.vector_norm(flat, dim=2).double().square() / positions)
            self._add("zeros", 1 - torch.count_nonzero(flat > 0, dim=2).double() / positions)
        if "pooled" in self.needs and first_image < POOLED_IMAGES:
            self._keep("pooled", mean[: POOLED_IMAGES - first_image])
        if subsample_rows and "ranks" in self.needs:
            self._add("rank", compute_map_ranks(maps[subsample_rows]))
        if subsample_rows and "independence" in self.needs:
            self._add("independence", compute_nuclear_norm_changes(flat[subsample_rows]))
        if "contributions" in self.needs:
            samples = sample_contributions(self.module, activation, self.index, first_image)
            if samples is not None:
                self._keep("contributions", samples)

    def sum_over_positions(self, product: Tensor) -> Tensor:
        """Sum a tensor shaped like the layer's input over positions, per image and channel: (N, C)."""
        return extract_channel_maps(self.module, product, self.index).flatten(2).sum(dim=2)

    def compute_stats(self) -> ActivationStats:
        """Return the means over images, and the kept rows."""
        means = {name: total / self._images[name] for name, total in self._sums.items()}
        return ActivationStats(self.name, means | {name: torch.cat(rows) for name, rows in self._rows.items()})

    def _add(self, name: str, values: Tensor) -> None:
        total = values.double().sum(dim=0)
        self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._images[name] = self._images.get(name, 0) + len(values)

    def _keep(self, name: str, rows: Tensor) -> None:
        self._rows.setdefault(name, []).append(rows.clone())


def extract_channel_maps(module: nn.Module, activation: Tensor, index: NDArray[np.int64]) -> Tensor:
    """Extract the feature maps of a group's channels from the input of `module`: (N, C, height, width).

    `index` has shape (C, m): the positions that belong to each channel. Behind a flattened feature map a channel has m
    features, which form a square if m is a square number.
    """
    if isinstance(module, nn.Linear):  # its channels are the last dimension
        activation = activation.movedim(-1, 1)
    channels, each = index.shape
    flat = index.ravel()
    if len(flat) != activation.shape[1] or not np.array_equal(flat, np.arange(len(flat))):
        activation = activation.index_select(1, torch.from_numpy(flat).to(activation.device))
    images, rest = activation.shape[0], activation.shape[2:]
    if rest:  # several maps of one channel are stacked
        return activation.reshape(images, channels, -1, rest[-1])
    side = isqrt(each)
    return (
        activation.reshape(images, channels, side, side)
        if side * side == each
        else activation.reshape(images, channels, 1, each)
    )
