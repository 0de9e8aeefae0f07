"""The ladder of trainings: whether a config has one, its rungs, and how many networks reach each.

Rungs are points on the one schedule of the finals. A network that is promoted continues its own training, so nothing is
trained twice. The numbers of networks are the largest that the cost allows: successive halving (Jamieson and Talwalkar
2016, "Non-stochastic Best Arm Identification and Hyperparameter Optimization") with a fixed number at the end.
"""

from bisect import bisect_right
from dataclasses import dataclass

from blendsearch.runs.config.method_registry import get_method
from blendsearch.runs.config.schema import Config
from blendsearch.runs.config.sections import LadderConfig

EPSILON = 1e-9
"""Rounding error of sums of shares."""


@dataclass(frozen=True)
class LadderPlan:
    """The rungs of a ladder.

    Attributes
    ----------
    shares: rising parts of the schedule of the finals at which a rung ends; the last is 1.
    sizes: the number of networks on each rung; the last is that of the finalists.
    rules: the largest number of known rules on the first rung.
    cost: the largest sum of the parts that are trained, in full trainings of one network.
    """

    shares: tuple[float, ...]
    sizes: tuple[int, ...]
    rules: int
    cost: float

    @property
    def last(self) -> int:
        """Return the number of the last rung; the first is 1, and 0 is the search's own evaluation."""
        return len(self.shares)

    def get_share(self, rung: int) -> float:
        """Return the part of the schedule that is trained up to `rung`."""
        return self.shares[rung - 1] if rung else 0.0

    def compute_step(self, rung: int, start: int | None = None) -> float:
        """Return the part of the schedule from rung `start`, by default the one before, to `rung`."""
        return self.get_share(rung) - self.get_share(rung - 1 if start is None else start)

    def compute_cost(self) -> float:
        """Return the sum of all parts, in full trainings of one network."""
        return sum(size * self.compute_step(rung) for rung, size in enumerate(self.sizes, 1))


def can_use_ladder(config: Config) -> bool:
    """Return True where `config` asks for trainings during the search.

    Its finals are, or may turn out to be, trained at one budget and in one stage, by a method that uses the ladder, and
    are not chosen by a promotion.
    """
    finals, wants_finals = config.finals, config.finals.picks == "auto" or config.finals.count_picks() > 0
    return (
        bool(config.ladder.rungs)
        and wants_finals
        and finals.stages == 1
        and not config.promote.share
        and config.training.train_fn is None
        and not config.budget.get_spanned_costs()
        and get_method(config.method).traits.ladder
    )


def make_plan(ladder: LadderConfig, picks: int) -> LadderPlan:
    """Make the plan with the most networks on the first rung that `ladder.cost` allows.

    `picks`: the number of finals that the config asks for; at least so many are finalists. Raises ValueError where the
    cost does not pay for the finalists.
    """
    shares, finalists = (*ladder.rungs, 1.0), max(ladder.finalists, picks)
    if finalists > ladder.cost + EPSILON:
        raise ValueError(
            f"{finalists} finals cost {finalists} full trainings, and ladder.cost allows {ladder.cost:g}: set it to "
            f"{finalists + 1} or more, or set ladder.rungs to [] to train finals without a ladder"
        )

    def make(first: int) -> LadderPlan:
        sizes = _compute_sizes(first, len(shares), ladder.keep, finalists)
        return LadderPlan(shares, sizes, min(ladder.rules, first // 2), ladder.cost)

    firsts = range(finalists, finalists + 1 + int(ladder.cost / shares[0]))
    return make(firsts[bisect_right(firsts, ladder.cost + EPSILON, key=lambda first: make(first).compute_cost()) - 1])


def _compute_sizes(first: int, rungs: int, keep: float, finalists: int) -> tuple[int, ...]:
    sizes = [first]
    for _ in range(rungs - 2):
        sizes.append(max(finalists, int(keep * sizes[-1] + EPSILON)))
    return (*sizes[: rungs - 1], finalists)
