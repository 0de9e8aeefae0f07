"""Importance of criteria, of their clusters and of groups: rank correlations with the loss over a run's networks.

A correlation is Spearman's; where budgets span a range, it is the partial one at equal cost. It describes the networks
that the search evaluated, and not the effect of changing one weight or one width alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blendsearch.blend.clustering import Clusters, merge_clusters
from blendsearch.blend.ranking import rank_rows
from blendsearch.results.costs import make_ranged_cost_reader, needs_cuts_for_costs
from blendsearch.results.formatting import COST_NAMES
from blendsearch.results.network import make_weights_reader, parse_genome
from blendsearch.results.record import Record
from blendsearch.results.summary import has_budget_range
from blendsearch.runs.pareto import select_evaluated, select_front, select_highest_fidelity
from blendsearch.runs.records import Evaluation
from blendsearch.runs.run import Run
from blendsearch.structure.groups import unpack_cut

MIN_NETWORKS = 10
"""Fewer networks show no importance: chance alone correlates them."""

MAX_NETWORKS = 500
"""Networks, evenly spaced over the search, that represent a longer one: their correlations differ by about 0.04."""

BEST_NETWORKS = 5, 50
"""Least and largest number of best networks of a run with one budget, otherwise a tenth of all."""

CONFIDENCE = 1.96
"""Standard errors of a 95 % interval."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class CriterionImportance(Record):
    """The importance of a criterion, or of the cluster of several `members`.

    Attributes
    ----------
    best_part, mean_part: part of the weights of a blend, in [0, 1], averaged over groups and over the best networks,
        or over all.
    rho: correlation of the part with the loss, in [-1, 1]; None where the part never changes.
    """

    members: tuple[str, ...]
    best_part: float
    mean_part: float
    rho: float | None


@dataclass(frozen=True, kw_only=True)
class GroupImportance(Record):
    """The importance of a group.

    Attributes
    ----------
    best_kept, mean_kept: share of its channels that the best networks, or all, keep on average.
    rho: correlation of the kept share with the loss, in [-1, 1]; None where the share never changes.
    """

    group: str
    channels: int
    best_kept: float
    mean_kept: float
    rho: float | None


@dataclass(frozen=True, kw_only=True)
class RunImportance(Record):
    """The importance of criteria, clusters and groups, the strongest correlation first.

    Attributes
    ----------
    evaluations: number of evaluated networks.
    networks: number of those that the correlations are over, evenly spaced.
    best: number of best networks: the front, or at one budget the tenth with the lowest loss.
    equal_costs: costs that are held equal.
    chance: a correlation nearer to 0 is within chance at 95 %.
    criteria: empty where networks have no blend. clusters: empty, too, where groups cluster criteria differently.
    groups: empty where all networks have the same widths.
    """

    evaluations: int
    networks: int = 0
    best: int = 0
    equal_costs: tuple[str, ...] = ()
    chance: float = 1.0
    criteria: tuple[CriterionImportance, ...] = ()
    clusters: tuple[CriterionImportance, ...] = ()
    groups: tuple[GroupImportance, ...] = ()


def measure_importance(run: Run) -> RunImportance:
    """Measure importance over the networks of `run`, in any state. Raises RunError where the run is damaged."""
    with run.open_store(read_only=True) as store:
        rows, promotions = store.read_bare_evaluations(-1, cuts=needs_cuts_for_costs(run)), store.read_promotions()
        evaluated = _select_comparable(rows)
        if len(evaluated) < MIN_NETWORKS:
            return RunImportance(evaluations=len(evaluated))
        best = _select_best(run, select_highest_fidelity(rows, promotions))
        chosen = {row.id for row in _space_evenly(evaluated)}
        whole = store.read_evaluations_by_id(sorted(chosen | best))
    sample = _NetworkSample(run, whole, chosen, best)
    found = _measure_criteria(run, sample)
    return RunImportance(
        evaluations=len(evaluated),
        networks=len(chosen),
        best=len(best),
        equal_costs=tuple(COST_NAMES[name] for name in run.config.budget.get_spanned_costs()),
        chance=sample.chance,
        criteria=found[0],
        clusters=found[1],
        groups=_measure_groups(run, sample),
    )


def describe_importance(found: RunImportance) -> str:
    """Describe the meaning of the correlations and their limits."""
    equal = f", at equal {' and '.join(found.equal_costs)}" if found.equal_costs else ""
    spaced = f" of {found.evaluations}, evenly spaced" if found.networks < found.evaluations else ""
    return (
        f"rho is Spearman's rank correlation with the validation loss{equal}, over {found.networks} "
        f"networks{spaced}: below 0, networks with more of it had a lower loss. Values in parentheses are within "
        "chance (95 %). This describes the networks that the search evaluated, and not the effect of one change alone."
    )


def correlate_ranks(values: Matrix, target: Matrix, controls: Matrix) -> Matrix:
    """Compute Spearman's correlation of each row of values (m, n) with target (n,): (m,) in [-1, 1].

    With controls (k, n) it is the partial correlation: of the residuals of both after a regression on the ranks of the
    controls. NaN for a row without any variation of its own.
    """
    ranks = rank_rows(np.vstack([values, target[None]]))
    ranks -= ranks.mean(axis=1, keepdims=True)
    basis = np.vstack([np.ones(len(target)), rank_rows(controls)]).T
    residuals = ranks - (basis @ np.linalg.lstsq(basis, ranks.T, rcond=None)[0]).T
    norms = np.linalg.norm(residuals, axis=1)
    norms[norms <= 1e-6 * np.maximum(np.linalg.norm(ranks, axis=1), 1.0)] = np.nan
    return np.asarray(np.clip(residuals[:-1] @ residuals[-1] / norms[:-1] / norms[-1], -1, 1))


class _NetworkSample:
    """Networks with their losses and ranged costs; `mask` marks those of the correlations, `best` the best ones."""

    def __init__(self, run: Run, rows: Sequence[Evaluation], chosen: set[int], best: set[int]) -> None:
        read_costs = make_ranged_cost_reader(run)
        self.rows = rows
        self.loss = np.array([row.loss for row in rows], dtype=np.float64)
        self.costs = np.array([read_costs(row) for row in rows], dtype=np.float64).T.reshape(-1, len(rows))
        self.mask = np.array([row.id in chosen for row in rows])
        self.best = np.array([row.id in best for row in rows])

    @property
    def chance(self) -> float:
        """Half-width of the 95 % interval of a correlation of 0, by Fisher's z."""
        return math.tanh(CONFIDENCE / math.sqrt(int(self.mask.sum()) - len(self.costs) - 3))

    def correlate(self, values: Matrix, mask: NDArray[np.bool_]) -> list[float | None]:
        """Correlate rows of values, (m, networks), with the loss over the networks of both masks."""
        mask = mask & self.mask
        if mask.sum() < MIN_NETWORKS:
            return [None] * len(values)
        found = correlate_ranks(values[:, mask], self.loss[mask], self.costs[:, mask])
        return [None if math.isnan(rho) else float(rho) for rho in found]


def _select_comparable(rows: Sequence[Evaluation]) -> list[Evaluation]:
    """Select the evaluated networks at the fidelity of the first one."""
    evaluated = [row for row in select_evaluated(rows) if row.loss is not None]
    return [row for row in evaluated if row.fidelity == evaluated[0].fidelity]


def _select_best(run: Run, rows: Sequence[Evaluation]) -> set[int]:
    if has_budget_range(run):
        return {row.id for row in select_front(rows, make_ranged_cost_reader(run))}
    least, most = BEST_NETWORKS
    ranked = sorted(rows, key=lambda row: (row.loss, row.id))
    return {row.id for row in ranked[: min(most, max(least, len(rows) // 10))]}


def _space_evenly(rows: Sequence[Evaluation]) -> list[Evaluation]:
    places = np.linspace(0, len(rows) - 1, min(len(rows), MAX_NETWORKS)).round().astype(int)
    return [rows[place] for place in places]


def _measure_groups(run: Run, sample: _NetworkSample) -> tuple[GroupImportance, ...]:
    sizes = np.array([int(group["channels"]) for group in run.structure["groups"]])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    cuts = (unpack_cut(row.cut, int(sizes.sum())) for row in sample.rows)
    kept = np.array([np.add.reduceat(cut, starts, dtype=np.int64) for cut in cuts]).T / sizes[:, None]
    correlations = sample.correlate(kept, np.ones(len(sample.rows), dtype=np.bool_))
    if all(rho is None for rho in correlations):
        return ()
    found = [
        GroupImportance(
            group=str(group["name"]),
            channels=int(group["channels"]),
            best_kept=float(shares[sample.best].mean()),
            mean_kept=float(shares[sample.mask].mean()),
            rho=rho,
        )
        for group, shares, rho in zip(run.structure["groups"], kept, correlations, strict=True)
    ]
    return tuple(sorted(found, key=lambda item: (-abs(item.rho or 0.0), -item.best_kept)))


def _measure_criteria(
    run: Run, sample: _NetworkSample
) -> tuple[tuple[CriterionImportance, ...], tuple[CriterionImportance, ...]]:
    """Measure criteria and clusters; nothing where networks have no blend, or all the same one."""
    names = [str(name) for name in run.structure["criteria"]]
    parts = _read_parts(run, sample.rows, len(names))
    members = [(number,) for number in range(len(names))]
    criteria = _measure_parts(names, members, parts, sample)
    stored = tuple(tuple(tuple(members) for members in found) for found in run.structure["clusters"])
    clusters = _list_network_clusters(stored, len(names)) if criteria else ()
    return criteria, _measure_parts(names, clusters, parts, sample) if 1 < len(clusters) < len(criteria) else ()


def _read_parts(run: Run, rows: Sequence[Evaluation], criteria: int) -> Matrix:
    """Read each criterion's part of a blend, averaged over groups, (criteria, networks); NaN without a blend."""
    read_weights = make_weights_reader(run)
    parts = np.full((criteria, len(rows)), np.nan)
    for place, row in enumerate(rows):
        weights = read_weights(parse_genome(run, row))
        if weights is not None:
            sums = weights.sum(axis=1, keepdims=True)
            usable = sums[:, 0] > 0
            parts[:, place] = (weights[usable] / sums[usable]).mean(axis=0) if usable.any() else np.nan
    return parts


def _measure_parts(
    names: Sequence[str], clusters: Sequence[tuple[int, ...]], parts: Matrix, sample: _NetworkSample
) -> tuple[CriterionImportance, ...]:
    blended = np.isfinite(parts.sum(axis=0))
    sums = np.array([parts[list(members)].sum(axis=0) for members in clusters])
    if not len(sums) or not (blended & sample.best).any():
        return ()
    correlations = sample.correlate(sums, blended)
    if all(rho is None for rho in correlations):
        return ()
    found = [
        CriterionImportance(
            members=tuple(names[number] for number in members),
            best_part=float(values[blended & sample.best].mean()),
            mean_part=float(values[blended & sample.mask].mean()),
            rho=rho,
        )
        for members, values, rho in zip(clusters, sums, correlations, strict=True)
    ]
    return tuple(sorted(found, key=lambda item: (-abs(item.rho or 0.0), -item.best_part)))


def _list_network_clusters(clusters: Clusters, criteria: int) -> tuple[tuple[int, ...], ...]:
    """List the clusters of the whole network; none where groups cluster the criteria differently."""
    merged = merge_clusters(clusters, criteria)
    numbers = {row: number for number, members in enumerate(merged) for row in members}
    agree = all(len({numbers[members[0]] for members in found}) == len(found) for found in clusters)
    return merged if agree else ()
