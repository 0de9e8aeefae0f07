"""Criteria from the curvature of the calibration loss: the second-order loss change when a channel is removed."""

from torch import Tensor

from blendsearch.criteria.registry import criterion
from blendsearch.criteria.view import GroupView, average_scores

THEIS = "Theis et al. 2018, Faster Gaze Prediction With Dense Networks and Fisher Pruning"


@criterion("fisher", family="curvature", needs=["gates"], cost="probe", source=THEIS)
def fisher(view: GroupView) -> Tensor | None:
    """Half the mean over images of (sum over readers and positions of a dL/da)^2."""
    return view.get_gate().square / 2


@criterion("fisher_per_macs", family="curvature", needs=["gates"], cost="probe", source=f"{THEIS}, section 3.2")
def fisher_per_macs(view: GroupView) -> Tensor | None:
    """`fisher`, divided by the multiply-accumulates that one channel of the group costs.

    Inside a group it orders channels as `fisher` does; its purpose is to compare channels of different groups.
    """
    return view.get_gate().square / 2 / max(view.macs, 1.0)


@criterion(
    "obd",
    family="curvature",
    needs=["squared_gradients"],
    cost="sub-sample",
    source="LeCun et al. 1990, Optimal Brain Damage; the Hessian's diagonal by the empirical Fisher's",
)
def obd(view: GroupView) -> Tensor | None:
    """Half the sum over the channel's filter of w^2 times the mean over images of (dL/dw)^2; mean over its makers."""
    pairs = zip(view.get_filters(), view.get_squared_filter_gradients(), strict=True)
    return average_scores([(weight.square() * squared).sum(dim=1) / 2 for weight, squared in pairs])


@criterion(
    "hessian_trace",
    family="curvature",
    needs=["hessian"],
    cost="sub-sample",
    source="Yu et al. 2022, Hessian-Aware Pruning and Optimal Neural Implant",
)
def hessian_trace(view: GroupView) -> Tensor | None:
    """||w||^2 Tr(H) / (2 n), w the channel's filter of n weights and H the loss's Hessian by them; mean over its
    makers.

    The trace is Hutchinson's estimate from few random sign vectors (`second_order.HESSIAN_PROBES`); it can be negative.
    """
    scores = []
    for weight, diagonal in zip(view.get_filters(), view.get_hessian_diagonals(), strict=True):
        scores.append(weight.square().sum(dim=1) * diagonal.sum(dim=1) / (2 * weight.shape[1]))
    return average_scores(scores)
