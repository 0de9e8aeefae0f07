"""Criteria from how far a filter is from the others of its layer: what others can replace may go."""

import torch
from torch import Tensor

from blendsearch.criteria.registry import criterion
from blendsearch.criteria.view import GroupView, mean_over


@criterion("fpgm", family="distance", source="He et al. 2019, Filter Pruning via Geometric Median")
def fpgm(view: GroupView) -> Tensor | None:
    """Sum over the layer's filters j of ||w_i - w_j||; mean over the layers that make the channel."""
    return mean_over([torch.cdist(weight, weight).sum(dim=1) for weight in view.filters()])


@criterion(
    "cosine", family="distance", source="redundancy as in Shao et al. 2021, Filter Pruning via Cosine Similarity"
)
def cosine(view: GroupView) -> Tensor | None:
    """Sum over the layer's filters j of 1 - |cos(w_i, w_j)|; mean over the layers that make the channel."""
    scores = []
    for weight in view.filters():
        unit = weight / weight.norm(dim=1, keepdim=True).clamp_min(1e-12)
        scores.append((1 - (unit @ unit.T).abs()).sum(dim=1))
    return mean_over(scores)
