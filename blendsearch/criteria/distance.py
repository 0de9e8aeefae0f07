"""Criteria from the distances between the filters of a layer: a filter that others can replace is less important.

All of them are functions of the inner products between a layer's filters. The view computes these once in float64, so
that small distances do not drown in round-off.
"""

import torch
from torch import Tensor

from blendsearch.criteria.registry import criterion
from blendsearch.criteria.view import GroupView, average_scores

WEISZFELD_STEPS = 100
"""Largest number of steps towards the geometric median; a few dozen suffice for six digits."""


@criterion("fpgm", family="distance", source="He et al. 2019, Filter Pruning via Geometric Median")
def fpgm(view: GroupView) -> Tensor | None:
    """Sum over the layer's filters j of ||w_i - w_j||; mean over the layers that make the channel.

    Distances are Euclidean (Torch-Pruning raises |w| to a power before it takes them).
    """
    return average_scores([_compute_distances(gram).sum(dim=1) for gram in view.get_filter_grams()])


@criterion(
    "fermat",
    family="distance",
    source="He et al. 2021, Blending Pruning Criteria for CNNs; the median by Vardi and Zhang 2000",
)
def fermat(view: GroupView) -> Tensor | None:
    """||w_i - m||, m the geometric median (Fermat point) of the layer's filters; mean over the layers that make it."""
    return average_scores([compute_median_distances(gram) for gram in view.get_filter_grams()])


@criterion(
    "cosine", family="distance", source="redundancy as in Shao et al. 2021, Filter Pruning via Cosine Similarity"
)
def cosine(view: GroupView) -> Tensor | None:
    """Sum over the layer's filters j of 1 - |cos(w_i, w_j)|; mean over the layers that make the channel.

    A filter of zeros counts as similar to every other, so it scores zero.
    """
    return average_scores([_compute_dissimilarity(gram).sum(dim=1) for gram in view.get_filter_grams()])


@criterion(
    "whc", family="distance", source="Chen et al. 2023, WHC: Weighted Hybrid Criterion for Filter Pruning on CNNs"
)
def whc(view: GroupView) -> Tensor | None:
    """||w_i|| times the sum over the layer's filters j of ||w_j|| (1 - |cos(w_i, w_j)|); mean over its makers."""
    scores = []
    for gram in view.get_filter_grams():
        norms = gram.diagonal().clamp_min(0).sqrt()
        scores.append(norms * (_compute_dissimilarity(gram) @ norms))
    return average_scores(scores)


def compute_median_distances(gram: Tensor) -> Tensor:
    """Compute the distances of n points to their geometric median, from their inner products: (n, n) -> (n,).

    Weiszfeld's iteration with the step of Vardi and Zhang, which leaves a data point that is not the median and stays
    at one that is. The median is a weighted mean of the points, so the iteration only keeps its weights.
    """
    points = len(gram)
    squared_norms = gram.diagonal()
    scale = float(squared_norms.max().clamp_min(0).sqrt())
    weights = torch.full((points,), 1 / points, dtype=gram.dtype, device=gram.device)
    distances = _compute_distances_to_mean(gram, squared_norms, weights)
    for _ in range(WEISZFELD_STEPS):
        here = distances <= 1e-9 * scale
        inverse = torch.where(here, 0.0, 1 / distances.clamp_min(1e-300))
        total = inverse.sum()
        if float(total) == 0:  # all points are equal
            break
        step = inverse / total - weights
        if bool(here.any()):
            # the pull of the other points on the current point, against the points at that position
            pull = float(total * (step @ gram @ step).clamp_min(0).sqrt())
            step = step * max(0.0, 1 - float(here.sum()) / max(pull, 1e-300))
        weights = weights + step
        moved = float((step @ gram @ step).clamp_min(0).sqrt())
        distances = _compute_distances_to_mean(gram, squared_norms, weights)
        if moved <= 1e-9 * scale:
            break
    return distances


def _compute_distances_to_mean(gram: Tensor, squared_norms: Tensor, weights: Tensor) -> Tensor:
    """Compute the distances of the points to their weighted mean."""
    products = gram @ weights
    return (squared_norms - 2 * products + weights @ products).clamp_min(0).sqrt()


def _compute_distances(gram: Tensor) -> Tensor:
    squared_norms = gram.diagonal()
    distances = (squared_norms[:, None] + squared_norms[None, :] - 2 * gram).clamp_min(0).sqrt()
    return distances.fill_diagonal_(0)


def _compute_dissimilarity(gram: Tensor) -> Tensor:
    """Compute 1 - |cos| between every two filters, (C, C) in [0, 1]; zero if one of them is zero."""
    norms = gram.diagonal().clamp_min(0).sqrt()
    lengths = norms[:, None] * norms[None, :]
    cosines = torch.where(lengths > 0, gram / lengths.clamp_min(1e-300), 1.0)
    return (1 - cosines.abs()).clamp_min(0)
