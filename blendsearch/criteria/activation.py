"""Criteria from a channel's activations on the calibration images, seen where the channel is read."""

from torch import Tensor

from blendsearch.criteria.registry import criterion
from blendsearch.criteria.view import GroupView, mean_over


@criterion("apoz", family="activation", needs=["activations"], cost="probe", source="Hu et al. 2016, Network Trimming")
def apoz(view: GroupView) -> Tensor | None:
    """1 - the share of positions at which the activation is not above zero; mean over readers."""
    return mean_over([1 - reading.zeros for reading in view.readings()])


@criterion(
    "activation_mean",
    family="activation",
    needs=["activations"],
    cost="probe",
    source="Molchanov et al. 2017, Pruning Convolutional Neural Networks for Resource Efficient Inference",
)
def activation_mean(view: GroupView) -> Tensor | None:
    """Mean activation over images and positions, absolute; mean over readers."""
    return mean_over([reading.mean.abs() for reading in view.readings()])


@criterion(
    "activation_variance",
    family="activation",
    needs=["activations"],
    cost="probe",
    source="the standard deviation of Molchanov et al. 2017, squared",
)
def activation_variance(view: GroupView) -> Tensor | None:
    """Variance of the activation over images and positions; mean over readers."""
    return mean_over([reading.square - reading.mean.square() for reading in view.readings()])
