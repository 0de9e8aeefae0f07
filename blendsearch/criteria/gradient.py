"""Criteria from the gradient of the calibration loss, and SynFlow's from the gradient of a flow without data."""

import torch
from torch import Tensor

from blendsearch.criteria.registry import criterion
from blendsearch.criteria.view import GroupView, average_scores

MOLCHANOV = "Molchanov et al. 2019, Importance Estimation for Neural Network Pruning"
BLENDING = "He et al. 2021, Blending Pruning Criteria for CNNs"


@criterion("taylor_weight", family="gradient", needs=["gradients"], cost="probe", source=f"{MOLCHANOV}; 'Taylor L1'")
def taylor_weight(view: GroupView) -> Tensor | None:
    """Sum of |w dL/dw| over the channel's filter; mean over the layers that make it."""
    return average_scores([change.abs().sum(dim=1) for change in _compute_weight_changes(view)])


@criterion("taylor_weight_l2", family="gradient", needs=["gradients"], cost="probe", source=f"{BLENDING}; 'Taylor L2'")
def taylor_weight_l2(view: GroupView) -> Tensor | None:
    """Square root of the sum of (w dL/dw)^2 over the channel's filter; mean over the layers that make it."""
    return average_scores([change.norm(dim=1) for change in _compute_weight_changes(view)])


@criterion(
    "taylor_gate",
    family="gradient",
    needs=["gates"],
    cost="probe",
    source="Molchanov et al. 2017, Pruning Convolutional Neural Networks for Resource Efficient Inference",
)
def taylor_gate(view: GroupView) -> Tensor | None:
    """Mean over images of |sum over readers and positions of a dL/da|: the loss change of masking, to first order."""
    return view.get_gate().change


@criterion("taylor_gamma", family="gradient", needs=["gradients"], cost="probe", source=MOLCHANOV)
def taylor_gamma(view: GroupView) -> Tensor | None:
    """|gamma dL/dgamma| of the channel's batch-norm; mean over its batch-norms."""
    pairs = zip(view.get_batch_norms(), view.get_batch_norm_gradients(), strict=True)
    return average_scores([(scale * gradient).abs().mean(dim=1) for (scale, _), (gradient, _) in pairs])


@criterion("taylor_beta", family="gradient", needs=["gradients"], cost="probe", source=BLENDING)
def taylor_beta(view: GroupView) -> Tensor | None:
    """|beta dL/dbeta| of the channel's batch-norm; mean over its batch-norms."""
    pairs = zip(view.get_batch_norms(), view.get_batch_norm_gradients(), strict=True)
    return average_scores([(shift * gradient).abs().mean(dim=1) for (_, shift), (_, gradient) in pairs])


@criterion(
    "snip",
    family="gradient",
    needs=["gradients"],
    cost="probe",
    source="Lee et al. 2019, SNIP: Single-shot Network Pruning based on Connection Sensitivity; one mask per channel",
)
def snip(view: GroupView) -> Tensor | None:
    """|dL/dm| at m = 1, m a mask on all filters that make the channel: |sum over them of w dL/dw|, L the mean loss."""
    changes = _compute_weight_changes(view)
    return torch.stack([change.sum(dim=1) for change in changes]).sum(dim=0).abs() if changes else None


@criterion(
    "synflow",
    family="gradient",
    needs=["flow"],
    cost="weights",
    source="Tanaka et al. 2020, Pruning neural networks without any data by iteratively conserving synaptic flow",
)
def synflow(view: GroupView) -> Tensor | None:
    """Sum over the channel's filters of |w| dR/d|w|, R the output of |network| for ones; shares summed over rounds.

    Needs no data: a few rounds, each with a forward and a backward pass of one image of ones, see `synaptic_flow`.
    """
    return view.get_flow()


def _compute_weight_changes(view: GroupView) -> list[Tensor]:
    """Multiply weight by gradient for each layer that makes the group, each (C, n)."""
    return [weight * gradient for weight, gradient in zip(view.get_filters(), view.get_filter_gradients(), strict=True)]
