"""What a criterion needs from the probe."""

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
"""What a criterion reads of the probe, and what the probe therefore gathers.

==================  ====================================================================================================
activations         `Reading.mean`, `.square`, `.zeros`
pooled              `Reading.pooled`
ranks               `Reading.rank`, on the sub-sample
independence        `Reading.independence`, on the sub-sample
contributions       `Reading.contributions`, on a sub-sample of its own
gates               `GroupView.gate`
gradients           `GroupView.filter_gradients`, `.batch_norm_gradients`
squared_gradients   `GroupView.squared_filter_gradients`, on the sub-sample
hessian             `GroupView.hessian_diagonals`, on the sub-sample
flow                `GroupView.flow`; needs one image's shape, no data
==================  ====================================================================================================
"""


NEEDS: tuple[Need, ...] = get_args(Need)
