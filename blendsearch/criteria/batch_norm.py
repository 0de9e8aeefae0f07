"""Criteria from the batch-norm behind a channel."""

from torch import Tensor

from blendsearch.criteria.registry import criterion
from blendsearch.criteria.view import GroupView, average_scores


@criterion("bn_gamma", family="batch-norm", cost="free", source="Liu et al. 2017, Network Slimming")
def bn_gamma(view: GroupView) -> Tensor | None:
    """|gamma| of the channel's batch-norm; mean over its batch-norms."""
    return average_scores([scale.abs().mean(dim=1) for scale, _ in view.get_batch_norms()])


@criterion("bn_beta", family="batch-norm", cost="free", source="He et al. 2021, Blending Pruning Criteria for CNNs")
def bn_beta(view: GroupView) -> Tensor | None:
    """|beta| of the channel's batch-norm; mean over its batch-norms."""
    return average_scores([shift.abs().mean(dim=1) for _, shift in view.get_batch_norms()])
