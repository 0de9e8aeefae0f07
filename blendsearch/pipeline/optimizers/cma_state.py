"""The state of CMA-ES in a checkpoint."""

from typing import NotRequired, TypedDict

from blendsearch.blend.genome import GenomeFields
from blendsearch.pipeline.optimizers.base import RandomState


class StrategyState(TypedDict):
    """The state of a `DiagonalStrategy` in a checkpoint: (n,) genes, and (m,) of those that vary."""

    mean: list[float]
    spread: list[float]
    covariance: list[float]
    path_sigma: list[float]
    path: list[float]
    size: int
    sigma: float
    generation: int


class SeparableState(TypedDict):
    """The state of the strategy of version 0.1; lists are (n,), and paths and variances in units of `spread`."""

    mean: list[float]
    spread: list[float]
    variance: list[float]
    path_sigma: list[float]
    path: list[float]
    size: int
    sigma: float
    generation: int


class StageResultState(TypedDict):
    """The result of a candidate of stage 2 in a checkpoint."""

    genes: list[float]
    objectives: list[float]
    digest: str
    origin: str


class SteadyState(TypedDict):
    """The part of the state that only candidates asked for one at a time have.

    `queue` holds origin and genome fields; `samples` losses and genes.
    """

    queue: list[tuple[str, GenomeFields]]
    pending: list[str]
    stage_results: list[StageResultState] | None
    is_fork: bool
    samples: list[tuple[float, list[float]]]


class CmaState(TypedDict):
    """The state of `Cma` in a checkpoint. `best` is a loss and the genes of its genome."""

    numpy: RandomState
    best: tuple[float, list[float]] | None
    strategy: StrategyState | SeparableState | None
    steady: NotRequired[SteadyState]
