"""Criteria from the size of weights."""

import torch
from torch import Tensor

from blendsearch.criteria.registry import criterion
from blendsearch.criteria.view import GroupView, mean_over


@criterion("l1", family="norm", source="Li et al. 2017, Pruning Filters for Efficient ConvNets")
def l1(view: GroupView) -> Tensor | None:
    """Sum of |w| over the channel's filter; mean over the layers that make it."""
    return mean_over([weight.abs().sum(dim=1) for weight in view.filters()])


@criterion("l2", family="norm", source="He et al. 2018, Soft Filter Pruning")
def l2(view: GroupView) -> Tensor | None:
    """Square root of the sum of w^2 over the channel's filter; mean over the layers that make it."""
    return mean_over([weight.norm(dim=1) for weight in view.filters()])


@criterion("group_norm", family="norm", source="Fang et al. 2023, DepGraph: Towards Any Structural Pruning")
def group_norm(view: GroupView) -> Tensor | None:
    """Square root of the sum of w^2 over every slice that goes with the channel: its filters, batch-norms and readers."""
    slices = [*view.filters(), *view.readers(), *(torch.stack(pair, dim=1) for pair in view.batch_norms())]
    return torch.stack([weight.square().sum(dim=1) for weight in slices]).sum(dim=0).sqrt() if slices else None


@criterion("reader_norm", family="norm", source="the L1 norm of Li et al. 2017, taken at the next layer")
def reader_norm(view: GroupView) -> Tensor | None:
    """Sum of |w| over the slices of the next layers that read the channel; mean over those layers."""
    return mean_over([weight.abs().sum(dim=1) for weight in view.readers()])
