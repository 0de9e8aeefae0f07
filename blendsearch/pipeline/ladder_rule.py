"""The promotion rule of the ladder: which networks are trained next, from stored results alone.

The same results give the same promotions, whatever their order of arrival and wherever a search was interrupted.
"""

from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from blendsearch.runs.config.ladder_plan import EPSILON, LadderPlan


class Climber(NamedTuple):
    """An evaluated network. `is_rule`: it is the cut of a known rule, not one that the search proposed."""

    digest: str
    id: int
    loss: float
    is_rule: bool

    @property
    def place(self) -> tuple[float, int, str]:
        """Return the sort key among networks on no rung."""
        return self.loss, self.id, self.digest


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
    climbers: the evaluated networks, by digest; `add` adds one.
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
    _places: dict[bool, list[tuple[float, int, str]]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        every = self.climbers.values()
        self._places = {kind: sorted(item.place for item in every if item.is_rule == kind) for kind in (True, False)}

    def add(self, climber: Climber) -> None:
        """Add an evaluated network, or replace the one with its digest."""
        known = self.climbers.get(climber.digest)
        if known is not None:
            self._places[known.is_rule].remove(known.place)
        self.climbers[climber.digest] = climber
        insort(self._places[climber.is_rule], climber.place)

    def count_rules(self) -> int:
        """Count the known rules among the networks."""
        return len(self._places[True])

    def list_untrained(self, count: int, *, is_rule: bool) -> list[Climber]:
        """List the best `count` networks of a kind that no training has started for, the best first."""
        started = {item.digest for item in self.trained} | self.failed
        free = (digest for _, _, digest in self._places[is_rule] if digest not in started)
        return [self.climbers[digest] for digest in islice(free, count)]

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
    taken, rules = standings.list_on(1), min(plan.rules, standings.count_rules())
    searched = int(earned * (plan.sizes[0] - rules) + EPSILON)
    chosen = []
    for is_rule, places in ((True, rules), (False, searched)):
        held = sum(standings.climbers[digest].is_rule == is_rule for digest in taken)
        if places > held:
            chosen += standings.list_untrained(places - held, is_rule=is_rule)
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
    """List the networks that may be trained up to `rung`, above the first, the best first."""
    started = {item.digest for item in standings.trained if item.rung >= rung} | standings.failed
    pool = standings.climbers.keys() if is_last else standings.losses.get(rung - 1, {}).keys()
    free = [digest for digest in pool if digest in standings.climbers and digest not in started]
    found = [digest for digest in free if is_last or standings.find_rung(digest) == rung - 1]
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
