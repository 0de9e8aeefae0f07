"""The promotion rule of the ladder: which networks are trained next, from stored results alone.

The same results give the same promotions, whatever their order of arrival and wherever a search was interrupted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from blendsearch.runs.config.ladder_plan import EPSILON, LadderPlan


class Climber(NamedTuple):
    """An evaluated network. `is_rule`: it is the cut of a known rule, not one that the search proposed."""

    digest: str
    id: int
    loss: float
    is_rule: bool


class RungTraining(NamedTuple):
    """A training from the rung `start`, 0 for none, up to `rung`."""

    digest: str
    start: int
    rung: int


@dataclass
class Standings:
    """What is known of all networks.

    Attributes
    ----------
    climbers: the evaluated networks, by digest.
    losses: the loss of each network on each rung that it was trained up to, by rung and digest.
    failed: digests of networks whose training failed; they are not promoted again.
    trained: all trainings so far, failed or not, and those that run.
    running: digests of the networks that are being trained up to each rung.
    """

    climbers: dict[str, Climber] = field(default_factory=dict)
    losses: dict[int, dict[str, float]] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    trained: list[RungTraining] = field(default_factory=list)
    running: dict[int, set[str]] = field(default_factory=dict)

    def start(self, promotion: RungTraining) -> None:
        """Add a training that starts."""
        self.trained.append(promotion)
        self.running.setdefault(promotion.rung, set()).add(promotion.digest)

    def finish(self, digest: str, rung: int, loss: float | None) -> None:
        """Add the result of a training that has started; None where it failed."""
        self.running[rung].discard(digest)
        if loss is None:
            self.failed.add(digest)
        else:
            self.losses.setdefault(rung, {})[digest] = loss

    def find_rung(self, digest: str) -> int:
        """Return the highest rung whose result is known; 0 where there is none."""
        return max((rung for rung, losses in self.losses.items() if digest in losses), default=0)

    def rank(self, digest: str) -> tuple[float, float, int]:
        """Return the sort key of a network: those on a higher rung first, then those with a lower loss there."""
        rung, climber = self.find_rung(digest), self.climbers[digest]
        return -rung, self.losses[rung][digest] if rung else climber.loss, climber.id

    def list_on(self, rung: int) -> set[str]:
        """List the networks that reached `rung`, or are being trained up to it."""
        return {*self.losses.get(rung, ()), *self.running.get(rung, ())} & self.climbers.keys()


def choose_promotions(plan: LadderPlan, standings: Standings, rung: int, earned: float) -> list[RungTraining]:
    """Choose the networks to train up to `rung` now; none where its places that are `earned` so far are taken.

    `earned`: the part of the search, in [0, 1], that is done. Networks come from the rung below; on the last rung, from
    the highest one that they reached. On the first rung, known rules have places of their own. From the second one on,
    one place at least is a known rule's and one a network's of the search, where there are such.
    """
    if rung == 1:
        chosen = _choose_first(plan, standings, earned)
    else:
        size = plan.sizes[rung - 1]
        places = int(earned * size + EPSILON)
        chosen = _choose_mixed(standings, rung, places, size, is_last=rung == plan.last)
    return _keep_affordable(plan, standings, rung, chosen)


def compute_charge(plan: LadderPlan, trained: Iterable[RungTraining]) -> float:
    """Compute the sum of the parts of the schedule that `trained` cover, in full trainings of one network."""
    return sum(plan.compute_step(item.rung, item.start) for item in trained)


def _choose_first(plan: LadderPlan, standings: Standings, earned: float) -> list[Climber]:
    taken, waiting = standings.list_on(1), _list_waiting(standings, 1, is_last=False)
    rules = min(plan.rules, sum(item.is_rule for item in standings.climbers.values()))
    searched = int(earned * (plan.sizes[0] - rules) + EPSILON)
    chosen = []
    for is_rule, places in ((True, rules), (False, searched)):
        held = sum(standings.climbers[digest].is_rule == is_rule for digest in taken)
        chosen += [item for item in waiting if item.is_rule == is_rule][: max(0, places - held)]
    return chosen


def _choose_mixed(standings: Standings, rung: int, places: int, size: int, *, is_last: bool) -> list[Climber]:
    taken, waiting = standings.list_on(rung), _list_waiting(standings, rung, is_last=is_last)
    chosen = waiting[: max(0, places - len(taken))]
    if not chosen or len(taken) + len(chosen) < size or size < 2:
        return chosen
    for is_rule in (True, False):
        held = [standings.climbers[digest] for digest in taken] + chosen
        missing = [item for item in waiting if item.is_rule == is_rule and standings.find_rung(item.digest) == rung - 1]
        if missing and all(item.is_rule != is_rule for item in held):
            chosen = [*chosen[:-1], missing[0]]
    return chosen


def _list_waiting(standings: Standings, rung: int, *, is_last: bool) -> list[Climber]:
    """List the networks that may be trained up to `rung`, the best first."""
    started = {item.digest for item in standings.trained if item.rung >= rung}
    below = {digest: standings.find_rung(digest) for digest in standings.climbers.keys() - started - standings.failed}
    found = [digest for digest, own in below.items() if own == rung - 1 or is_last]
    return [standings.climbers[digest] for digest in sorted(found, key=standings.rank)]


def _keep_affordable(
    plan: LadderPlan, standings: Standings, rung: int, chosen: Sequence[Climber]
) -> list[RungTraining]:
    """Keep the first of `chosen` that the cost allows, beside the planned trainings on higher rungs."""
    charge = compute_charge(plan, standings.trained)
    later = range(rung + 1, plan.last + 1)
    charge += sum(
        max(0, plan.sizes[item - 1] - len(standings.list_on(item))) * plan.compute_step(item) for item in later
    )
    kept = []
    for item in chosen:
        promotion = RungTraining(item.digest, standings.find_rung(item.digest), rung)
        charge += plan.compute_step(rung, promotion.start)
        if charge > plan.cost + EPSILON:
            break
        kept.append(promotion)
    return kept
