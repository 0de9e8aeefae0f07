"""Criteria from a channel's activations on the calibration images, at the layers that read the channel."""

import torch
from torch import Tensor

from blendsearch.criteria.registry import criterion
from blendsearch.criteria.view import GroupView, average_scores

ENTROPY_BINS = 32
"""Bins between a channel's smallest and largest pooled activation; with more, most are empty at a few hundred
images.
"""


@criterion("apoz", family="activation", needs=["activations"], cost="probe", source="Hu et al. 2016, Network Trimming")
def apoz(view: GroupView) -> Tensor | None:
    """1 - the share of positions at which the activation is not above zero; mean over readers."""
    return average_scores([1 - reading.zeros for reading in view.get_activation_stats()])


@criterion(
    "activation_mean",
    family="activation",
    needs=["activations"],
    cost="probe",
    source="Molchanov et al. 2017, Pruning Convolutional Neural Networks for Resource Efficient Inference",
)
def activation_mean(view: GroupView) -> Tensor | None:
    """Mean activation over images and positions, absolute; mean over readers."""
    return average_scores([reading.mean.abs() for reading in view.get_activation_stats()])


@criterion(
    "activation_variance",
    family="activation",
    needs=["activations"],
    cost="probe",
    source="the standard deviation of Molchanov et al. 2017, squared",
)
def activation_variance(view: GroupView) -> Tensor | None:
    """Variance of the activation over images and positions; mean over readers."""
    return average_scores(
        [(reading.square - reading.mean.square()).clamp_min(0) for reading in view.get_activation_stats()]
    )


@criterion(
    "entropy",
    family="activation",
    needs=["pooled"],
    cost="probe",
    source="Luo and Wu 2017, An Entropy-based Pruning Method for CNN Compression",
)
def entropy(view: GroupView) -> Tensor | None:
    """- sum over bins of p log p, p the histogram over images of the channel's mean activation; mean over readers.

    The histogram has `ENTROPY_BINS` equal bins from the channel's smallest to its largest value. A channel with the
    same value for every image has entropy zero. In nats, in [0, log(ENTROPY_BINS)].
    """
    return average_scores(
        [compute_histogram_entropy(reading.pooled, ENTROPY_BINS) for reading in view.get_activation_stats()]
    )


@criterion(
    "hrank",
    family="activation",
    needs=["ranks"],
    cost="sub-sample",
    source="Lin et al. 2020, HRank: Filter Pruning using High-Rank Feature Map",
)
def hrank(view: GroupView) -> Tensor | None:
    """Mean over images of the rank of the channel's feature map; mean over readers."""
    return average_scores([reading.rank for reading in view.get_activation_stats()])


@criterion(
    "chip",
    family="activation",
    needs=["independence"],
    cost="sub-sample",
    source="Sui et al. 2021, CHIP: CHannel Independence-based Pruning for Compact Neural Networks",
)
def chip(view: GroupView) -> Tensor | None:
    """Mean over images of ||A||_* - ||A without row c||_*, the rows of A being the C flattened feature maps.

    Mean over readers. The difference of nuclear norms is computed by one integral instead of C decompositions, see
    `feature_map.compute_nuclear_norm_changes`.
    """
    return average_scores([reading.independence for reading in view.get_activation_stats()])


def compute_histogram_entropy(values: Tensor, bins: int) -> Tensor:
    """Compute the entropy in nats of each column's histogram over its own range: (images, C) -> (C,) in float64."""
    values = values.double()
    low, high = values.amin(dim=0), values.amax(dim=0)
    width = (high - low) / bins
    # the largest value belongs to the last bin, and all of a constant column to the first
    places = ((values - low) / width.where(width > 0, torch.ones_like(width))).long().clamp(0, bins - 1)
    counts = torch.zeros(bins, values.shape[1], dtype=torch.float64, device=values.device)
    counts.scatter_add_(0, places, torch.ones_like(values))
    entropies: Tensor = torch.special.entr(counts / len(values)).sum(dim=0)
    return entropies
