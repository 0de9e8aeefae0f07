"""Allocation and method ``sensitivity``: widths from the measured cost of narrowing each group.

Liu et al. 2019, "Automatic compression ratio allocation" (doi 10.1145/3387168.3387184): every layer is pruned at
several ratios with the others unpruned, the network's accuracy measured each time, and the ratios of all layers are
read from these curves by binary search on the largest allowed drop, until the budget is met.

Only the abstract is public. Filled in here:

- layers are our groups: coupled ones are measured together;
- between two measured widths the curve is a straight line; a wider group never counts as worse than a narrower one, and
  accuracy above the unpruned network's counts as no drop;
- below the narrowest measured width the curve continues to no channels and the accuracy of guessing;
- where the budget is met without any drop, all groups are narrowed towards their free widths by one factor;
- nothing is fine-tuned while measuring (`allocating.fidelity`), and rounding is filled up as in every allocation.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from blendsearch.blend.allocation import Widths
from blendsearch.blend.allocation_rules import BLEND, AllocationRule, PreparedAllocation, find_row, make_path_rule
from blendsearch.blend.decoder import Decoder, keep_best
from blendsearch.blend.genome import blend_ranks
from blendsearch.events import MethodProgress
from blendsearch.fitness.evaluator import make_request
from blendsearch.pipeline.methods.one_network import OneNetworkMethod
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.pipeline.problem.session import SearchSession
from blendsearch.runs.origin import DENSE
from blendsearch.runs.records import Probe
from blendsearch.runs.store import Store
from blendsearch.structure.groups import Cut, compute_cut_digest

Vector = NDArray[np.float64]


class Curve(NamedTuple):
    """The curve of one group: shares of its channels, from 1 down to 0, and the drop at each, from 0 upwards; (n,)."""

    ratios: Vector
    drop: Vector

    def find_narrowest(self, drop: float) -> float:
        """Return the smallest share of channels at which the drop is at most `drop`."""
        last = int(np.searchsorted(self.drop, drop, side="right")) - 1
        if last == len(self.drop) - 1:
            return float(self.ratios[-1])
        low, high = self.drop[last], self.drop[last + 1]
        part = (drop - low) / (high - low)
        return float(self.ratios[last] + part * (self.ratios[last + 1] - self.ratios[last]))


def make_curve(measurements: Sequence[tuple[float, float]], unpruned: float, chance_level: float) -> Curve:
    """Make the curve through pairs of the share kept and the value there (higher is worse), in any order.

    `unpruned` is the value of the unpruned network, `chance_level` that of one which guesses.
    """
    points = np.array([(1.0, unpruned), *sorted(measurements, reverse=True), (0.0, chance_level)])
    return Curve(points[:, 0], np.maximum.accumulate(points[:, 1] - unpruned))


def measure_sensitivity(session: SearchSession) -> AllocationRule:
    """Measure what is not in the store yet, and read the widths from the curves."""
    problem, engine, store = session.problem, session.engine, session.store
    planned = _plan_probes(problem)
    fidelity = problem.config.allocating.fidelity
    asked = {
        compute_cut_digest(cut): (name, make_request(cut, fidelity, problem.config.seed)) for name, _, cut in planned
    }
    done = {item.digest for item in store.read_probes() if item.fidelity == fidelity}
    for digest, (_, evaluation_request) in asked.items():
        if digest not in done:
            engine.submit(evaluation_request)
    for outcome in engine.iter_outcomes():
        subject = asked[outcome.digest][0]
        loss, error = (None, None) if outcome.failure else (outcome.loss, outcome.error)
        store.add_probe(Probe(outcome.digest, fidelity, subject, loss, error, outcome.seconds, outcome.failure))
        done.add(outcome.digest)
        session.report(_describe_probe(len(done & asked.keys()), len(asked), subject))
    return find_widths(read_curves(problem, store), problem.decoder)


def read_curves(problem: Problem, store: Store) -> list[Curve]:
    """Read the measured curves, one per group. A failed probe counts as a network that guesses."""
    chosen = problem.config.allocating
    classes = max(2, problem.splits.classes)
    nothing = 1 - 1 / classes if chosen.measure == "error" else float(np.log(classes))
    probes = {item.digest: item for item in store.read_probes() if item.fidelity == chosen.fidelity}
    measured: dict[str, list[tuple[float, float]]] = {}
    for name, part, cut in _plan_probes(problem):
        probe = probes[compute_cut_digest(cut)]
        value = probe.error if chosen.measure == "error" else probe.loss
        measured.setdefault(name, []).append((part, nothing if value is None else value))
    whole = measured[DENSE][0][1]
    return [make_curve(measured.get(group.name, []), whole, nothing) for group in problem.structure.maps.groups]


def find_widths(group_curves: Sequence[Curve], decoder: Decoder) -> AllocationRule:
    """Make the rule that takes the widths at the least common drop that meets a budget."""
    sizes = decoder.allowed.sizes.astype(np.float64)
    free = np.array([item.find_narrowest(0.0) for item in group_curves])

    def path(level: float) -> Vector:
        """Map a level to widths: above 0 from the free widths to the unpruned ones; below, -level is the drop."""
        if level >= 0:
            return np.asarray(sizes * (free + min(1.0, level) * (1 - free)))
        return np.asarray(sizes * [item.find_narrowest(-level) for item in group_curves])

    largest = max(float(item.drop[-1]) for item in group_curves)
    return make_path_rule("sensitivity", decoder.allowed, path, (-largest - 1e-9, 1.0))


def _plan_probes(problem: Problem) -> list[tuple[str, float, Cut]]:
    """Plan the networks to evaluate: group, share of its channels kept, and cut; the unpruned network comes first.

    Widths that round to the same value are measured once, those that round to all channels not at all.
    """
    maps, decoder = problem.structure.maps, problem.decoder
    chosen, space = problem.config.allocating, problem.decoder.space
    genome = (
        space.make_equal_blend()
        if chosen.criterion == BLEND
        else space.make_single_criterion(find_row(decoder.table, chosen.criterion))
    )
    scores = blend_ranks(space.ranks, space.compute_weights(genome))
    planned = [(DENSE, 1.0, maps.make_unpruned_cut())]
    for number, group in enumerate(maps.groups):
        for count in _list_probe_widths(decoder.allowed, number, chosen.ratios):
            counts = maps.sizes.copy()
            counts[number] = count
            planned.append((group.name, count / group.channels, keep_best(scores, counts)))
    return planned


def _list_probe_widths(allowed: Widths, group: int, ratios: Sequence[float]) -> list[int]:
    wanted = [int(allowed.round(ratio * allowed.sizes.astype(np.float64))[group]) for ratio in ratios]
    return [count for count in dict.fromkeys(wanted) if count < allowed.sizes[group]]


def _describe_probe(done: int, total: int, group: str) -> MethodProgress:
    return MethodProgress(
        name="probed",
        activity="measuring sensitivity",
        line=f"sensitivity: {total} networks evaluated" if done == total else "",
        done=done,
        of=total,
        facts={"group": group},
    )


class Sensitivity(OneNetworkMethod):
    """One network, with the widths that the curves give and the channels of the equal blend."""

    def prepare_allocation(self, session: SearchSession) -> PreparedAllocation:
        """Find the widths; a stored state is continued."""
        return PreparedAllocation(measure_sensitivity(session))
