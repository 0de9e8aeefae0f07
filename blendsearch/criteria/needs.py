"""Quantities of the probe that criteria can need."""

from typing import Literal, get_args

Need = Literal[
    "activations",
    "pooled",
    "ranks",
    "independence",
    "contributions",
    "gates",
    "gradients",
    "squared_gradients",
    "hessian",
    "flow",
]
"""Quantity that a criterion reads, and that the probe therefore computes.

==================  ====================================================================================================
activations         `ActivationStats.mean`, `.square`, `.zeros`
pooled              `ActivationStats.pooled`
ranks               `ActivationStats.rank`, on the sub-sample
independence        `ActivationStats.independence`, on the sub-sample
contributions       `ActivationStats.contributions`, on a sub-sample of its own
gates               `GroupView.get_gate`
gradients           `GroupView.get_filter_gradients`, `.get_batch_norm_gradients`
squared_gradients   `GroupView.get_squared_filter_gradients`, on the sub-sample
hessian             `GroupView.get_hessian_diagonals`, on the sub-sample
flow                `GroupView.get_flow`; needs one image's shape, no data
==================  ====================================================================================================
"""


NEEDS: tuple[Need, ...] = get_args(Need)
