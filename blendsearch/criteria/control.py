"""Controls: criteria without information, which any other must beat."""

import torch
from torch import Tensor

from blendsearch.criteria.registry import criterion
from blendsearch.criteria.view import GroupView


@criterion(
    "random", family="control", cost="free", source="a control; Mittal et al. 2018, Recovering from Random Pruning"
)
def random(view: GroupView) -> Tensor:
    """Uniform random numbers in [0, 1)."""
    return torch.from_numpy(view.rng.random(view.group.channels))
