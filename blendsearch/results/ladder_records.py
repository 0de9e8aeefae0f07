"""Records of a search's ladder and of the noise of its finals."""

from dataclasses import dataclass

from blendsearch.results.record import Record


@dataclass(frozen=True, kw_only=True)
class RungRecord(Record):
    """A rung of the ladder.

    Attributes
    ----------
    share: the part of the schedule of the finals that ends there, in (0, 1].
    networks: the networks that reached it.
    failed: the networks whose training towards it failed.
    """

    rung: int
    share: float
    networks: int
    failed: int


@dataclass(frozen=True, kw_only=True)
class SearchCost(Record):
    """What a search with a ladder has cost so far, in multiply-accumulates.

    Attributes
    ----------
    evaluations: the search's own evaluations: recovery, and passes over the validation images. Refits are not counted.
    probes: the trainings that found the learning rate.
    rungs, finals: the trainings up to the last rung, and from there to the end.
    further_seeds: the trainings of the finals on all seeds but the first.
    one_training: a full training of the most expensive network that was trained.
    trainings: rungs and finals together, in such trainings; at most `limit`, the config's ladder.cost.
    """

    evaluations: float
    probes: float
    rungs: float
    finals: float
    further_seeds: float
    one_training: float
    trainings: float
    limit: float


@dataclass(frozen=True, kw_only=True)
class LadderRecord(Record):
    """The ladder of a search, as far as it was climbed."""

    rungs: tuple[RungRecord, ...]
    cost: SearchCost


@dataclass(frozen=True, kw_only=True)
class FinalsNoise(Record):
    """The differences of the finals' validation accuracies, compared with what chance makes of as many images.

    Attributes
    ----------
    networks: the number of finals.
    spread: the highest minus the lowest accuracy.
    standard_error: that of the highest accuracy, sqrt(p (1 - p) / images).
    is_within: the spread is at most two standard errors.
    """

    networks: int
    spread: float
    standard_error: float
    is_within: bool
