"""Criteria from the gradient of the calibration loss."""

import torch
from torch import Tensor

from blendsearch.criteria.registry import criterion
from blendsearch.criteria.view import GroupView, mean_over

MOLCHANOV = "Molchanov et al. 2019, Importance Estimation for Neural Network Pruning"


@criterion("taylor_weight", family="gradient", needs=["gradients"], cost="probe", source=MOLCHANOV)
def taylor_weight(view: GroupView) -> Tensor | None:
    """Sum of |w dL/dw| over the channel's filter; mean over the layers that make it."""
    pairs = zip(view.filters(), view.filter_gradients(), strict=True)
    return mean_over([(weight * gradient).abs().sum(dim=1) for weight, gradient in pairs])


@criterion(
    "taylor_gate",
    family="gradient",
    needs=["activations", "gradients"],
    cost="probe",
    source="Molchanov et al. 2017, Pruning Convolutional Neural Networks for Resource Efficient Inference",
)
def taylor_gate(view: GroupView) -> Tensor | None:
    """Mean over images of |sum over positions of a dL/da|, summed over readers: the loss change of silencing them."""
    readings = view.readings()
    return torch.stack([reading.gate for reading in readings]).sum(dim=0) if readings else None


@criterion("taylor_gamma", family="gradient", needs=["gradients"], cost="probe", source=MOLCHANOV)
def taylor_gamma(view: GroupView) -> Tensor | None:
    """|gamma dL/dgamma| of the channel's batch-norm; mean over its batch-norms."""
    pairs = zip(view.batch_norms(), view.batch_norm_gradients(), strict=True)
    return mean_over([(scale * gradient).abs() for (scale, _), (gradient, _) in pairs])


@criterion(
    "fisher",
    family="gradient",
    needs=["activations", "gradients"],
    cost="probe",
    source="Theis et al. 2018, Faster Gaze Prediction With Dense Networks and Fisher Pruning",
)
def fisher(view: GroupView) -> Tensor | None:
    """Mean over images of (sum over positions of a dL/da)^2 / 2, summed over readers."""
    readings = view.readings()
    return torch.stack([reading.gate_square for reading in readings]).sum(dim=0) / 2 if readings else None
