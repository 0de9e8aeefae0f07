"""Criteria from the magnitude of weights."""

import torch
from torch import Tensor

from blendsearch.criteria.registry import criterion
from blendsearch.criteria.view import GroupView, average_scores


@criterion("l1", family="norm", source="Li et al. 2017, Pruning Filters for Efficient ConvNets")
def l1(view: GroupView) -> Tensor | None:
    """Sum of |w| over the channel's filter; mean over the layers that make it."""
    return average_scores([weight.abs().sum(dim=1) for weight in view.get_filters()])


@criterion("l2", family="norm", source="He et al. 2018, Soft Filter Pruning")
def l2(view: GroupView) -> Tensor | None:
    """Square root of the sum of w^2 over the channel's filter; mean over the layers that make it."""
    return average_scores([weight.norm(dim=1) for weight in view.get_filters()])


@criterion("group_norm", family="norm", source="Fang et al. 2023, DepGraph: Towards Any Structural Pruning")
def group_norm(view: GroupView) -> Tensor | None:
    """Square root of the sum of w^2 over every slice coupled to the channel: filters, readers, batch-norm scales.

    Biases and batch-norm shifts are left out, as in Torch-Pruning's group norm.
    """
    squares = _sum_coupled_squares(view)
    return None if squares is None else squares.sqrt()


@criterion("reader_norm", family="norm", source="the L1 norm of Li et al. 2017, taken at the next layer")
def reader_norm(view: GroupView) -> Tensor | None:
    """Sum of |w| over the slices of the next layers that read the channel; mean over those layers."""
    return average_scores([weight.abs().sum(dim=1) for weight in view.get_reader_weights()])


@criterion(
    "lamp",
    family="norm",
    source="Lee et al. 2021, Layer-adaptive Sparsity for the Magnitude-based Pruning; for channels as in Torch-Pruning",
)
def lamp(view: GroupView) -> Tensor | None:
    """s_c / (sum of s over the channels with s >= s_c), s being the squared group norm.

    Inside a group it orders channels as `group_norm` does; its purpose is to compare channels of different groups.
    """
    squares = _sum_coupled_squares(view)
    if squares is None:
        return None
    ascending, order = squares.double().sort(stable=True)
    not_below = ascending.flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(ascending)
    scores[order] = ascending / not_below.clamp_min(torch.finfo(torch.float64).tiny)
    return scores


def _sum_coupled_squares(view: GroupView) -> Tensor | None:
    """Sum the squares of all weights coupled to each channel, (C,)."""
    slices = [*view.get_filters(), *view.get_reader_weights(), *(scale for scale, _ in view.get_batch_norms())]
    return torch.stack([weight.square().sum(dim=1) for weight in slices]).sum(dim=0) if slices else None
