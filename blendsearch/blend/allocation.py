"""How many channels each group keeps, so that the budget is met: never exceeded, and as nearly reached as can be."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blendsearch.blend.genome import SHARE_SCALE
from blendsearch.errors import BudgetError
from blendsearch.structure.cost import CostOracle

Counts = NDArray[np.int64]
Budget = Mapping[str, float]
"""For each budgeted cost (any that the oracle knows) its largest ratio to the dense network's, in (0, 1]."""

ADDITIVE_COSTS = ("macs", "params")
"""Costs that every channel adds to. Peak memory is not one: layers beside the peak are free until they make another."""

UNITS = {"memory": " bytes", "latency": " ns"}

BUDGET_TOLERANCE = 0.001
"""Filling up stops when a budgeted cost is this close to its budget (a share of the dense cost)."""


@dataclass(frozen=True, eq=False)
class Widths:
    """The widths that groups may take: `low` to `sizes` in steps of `step`, or the dense width; each (groups,)."""

    sizes: Counts
    low: Counts
    step: Counts

    def round(self, targets: NDArray[np.float64]) -> Counts:
        """The nearest allowed counts, halves up: (..., groups) -> (..., groups)."""
        steps: Counts = np.floor(targets / self.step + 0.5).astype(np.int64) * self.step
        within = np.clip(steps, self.low, self.sizes)
        return np.asarray(np.where(targets > self.sizes - self.step / 2, self.sizes, within))

    def widen(self, counts: Counts) -> Counts:
        """Each group one step wider, at most its dense width."""
        return np.asarray(np.minimum((counts // self.step + 1) * self.step, self.sizes))


def make_widths(sizes: Counts, min_channels: int, min_keep: float, round_to: int) -> Widths:
    """Allowed widths: at least `min_channels` and the share `min_keep` of each group, in multiples of `round_to`.

    A group narrower than `round_to` keeps all its channels.
    """
    step = np.where(sizes >= round_to, round_to, sizes)
    floor = np.maximum(min_channels, np.ceil(min_keep * sizes)).astype(np.int64)
    low = np.minimum(-(-floor // step) * step, sizes)
    return Widths(sizes, low, step)


def compute_min_ratios(oracle: CostOracle, allowed: Widths) -> dict[str, float]:
    """The smallest ratio of each cost that any cut can have; the largest is 1."""
    return {name: float(oracle.compute_ratio(name, allowed.low)) for name in oracle.dense}


def check_reachable(oracle: CostOracle, allowed: Widths, budget: Budget) -> None:
    """Raise BudgetError, stating the reachable range, when no allowed cut meets `budget`."""
    least = compute_min_ratios(oracle, allowed)
    for name, ratio in budget.items():
        if ratio < least[name]:
            raise BudgetError(
                f"no cut keeps {ratio:.1%} of the dense {name}: reachable is {least[name]:.1%} to 100 % "
                f"({int(oracle.compute_cost(name, allowed.low)):,} to {oracle.dense[name]:,}{UNITS.get(name, '')}); "
                f"ask for more, or lower the minimum width of groups"
            )


def is_reachable(oracle: CostOracle, allowed: Widths, budget: Budget) -> bool:
    """Whether the least widths meet `budget`."""
    return bool(_make_budget_check(oracle, budget)(allowed.low))


def allocate(oracle: CostOracle, allowed: Widths, budget: Budget, share: NDArray[np.float64]) -> Counts:
    """Channels kept per group for shares in [-1, 1], shape (groups,): every budgeted cost at or below its budget.

    A group keeps the part sigmoid(SHARE_SCALE * share + t) of its channels, with one threshold t for the network found
    by bisection. Where a budget binds only some groups (peak memory), the others go on up to a threshold of their own.
    What rounding leaves of the budget is filled up, the groups most in arrears first.
    """
    scaled = SHARE_SCALE * share

    def compute_targets(thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(allowed.sizes / (1 + np.exp(-np.clip(scaled + thresholds[:, None], -40, 40))))

    low, high = -45.0, 45.0
    fits = _make_budget_check(oracle, budget)

    def compute_counts(threshold: float) -> Counts:
        return np.asarray(allowed.round(compute_targets(np.array([threshold]))[0]))

    if fits(compute_counts(high)):
        return compute_counts(high)
    # costs grow with the threshold: many are tried at once, and the interval shrinks by that factor
    while high - low > 1e-7:
        thresholds = np.linspace(low, high, 34)
        fitting = int(fits(allowed.round(compute_targets(thresholds[1:-1]))).sum())
        low, high = float(thresholds[fitting]), float(thresholds[fitting + 1])
    found, reached = _fill_progressively(
        oracle, allowed, budget, compute_counts(low), compute_counts, (low, high, 45.0)
    )
    return _fill(oracle, allowed, budget, found, compute_targets(np.array([reached]))[0])


def allocate_globally(
    oracle: CostOracle, allowed: Widths, budget: Budget, scores: Sequence[NDArray[np.float64]]
) -> Counts:
    """Channels kept per group when one threshold over all groups' scores decides; `scores` holds one (C,) per group."""
    ordered = [np.sort(values)[::-1] for values in scores]
    thresholds = np.unique(np.concatenate(ordered))

    def compute_counts(threshold: float) -> Counts:
        above = np.array([np.searchsorted(-values, -threshold, side="right") for values in ordered], dtype=np.float64)
        return allowed.round(above)

    fits = _make_budget_check(oracle, budget)
    low, high = 0, len(thresholds)  # thresholds[high:] keep few enough
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(compute_counts(thresholds[middle])).all() else (middle + 1, high)
    start = compute_counts(thresholds[high]) if high < len(thresholds) else allowed.low

    def follow_path(level: float) -> Counts:
        place = int(np.ceil(-level))
        return compute_counts(thresholds[place]) if place < len(thresholds) else allowed.low

    levels = (-float(high), -float(max(high - 1, 0)), 0.0)
    found, reached = _fill_progressively(oracle, allowed, budget, start, follow_path, levels)
    ideal = follow_path(reached).astype(np.float64)
    return _fill(oracle, allowed, budget, found, ideal)


def allocate_along(
    oracle: CostOracle,
    allowed: Widths,
    budget: Budget,
    path: Callable[[float], NDArray[np.float64]],
    levels: tuple[float, float],
) -> Counts:
    """Channels kept per group at the highest level of `path` that meets the budget, filled up like any allocation.

    `path` gives the widths wanted at a level, (groups,), never less at a higher one; `levels` are its least and last.
    """
    fits = _make_budget_check(oracle, budget)
    low, high = levels

    def compute_counts(level: float) -> Counts:
        return allowed.round(path(level))

    if fits(compute_counts(high)):
        return compute_counts(high)
    if not fits(compute_counts(low)):
        return _fill(oracle, allowed, budget, allowed.low, path(low))
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(compute_counts(middle)) else (low, middle)
    found, reached = _fill_progressively(
        oracle, allowed, budget, compute_counts(low), compute_counts, (low, high, levels[1])
    )
    return _fill(oracle, allowed, budget, found, path(reached))


def compute_shares(counts: Counts, sizes: Counts) -> NDArray[np.float64]:
    """The shares that make `allocate` keep `counts` where it meets the same budget, clipped to [-1, 1]; (groups,)."""
    kept = np.clip(counts / sizes, 0.25 / sizes, 1 - 0.25 / sizes)
    odds = np.log(kept / (1 - kept))
    return np.asarray(np.clip((odds - np.median(odds)) / SHARE_SCALE, -1, 1))


def _compute_limits(oracle: CostOracle, budget: Budget) -> dict[str, int]:
    """The largest absolute cost that each budget allows."""
    return {name: int(np.floor(ratio * oracle.dense[name] + 1e-9)) for name, ratio in budget.items()}


def _make_budget_check(oracle: CostOracle, budget: Budget) -> Callable[[Counts], NDArray[np.bool_]]:
    """Whether cuts of these counts meet every budget: (..., groups) -> (...)."""
    limits = _compute_limits(oracle, budget)

    def is_within_budget(counts: Counts) -> NDArray[np.bool_]:
        met = np.ones(counts.shape[:-1], dtype=np.bool_)
        for name, limit in limits.items():
            met &= oracle.compute_cost(name, counts) <= limit
        return met

    return is_within_budget


def _fill_progressively(
    oracle: CostOracle,
    allowed: Widths,
    budget: Budget,
    counts: Counts,
    path: Callable[[float], Counts],
    levels: tuple[float, float, float],
) -> tuple[Counts, float]:
    """`counts` with the groups that no budget stops raised along `path`, and the level just above where that ended.

    `path` gives the counts at a level, never fewer at a higher one; `levels` are that of `counts`, the one just above
    it, and the last. Groups that cannot be widened by a step stay; the others rise together until one of them cannot:
    max-min fairness by progressive filling. Where every channel is charged for, the first stop is the last.
    """
    level, above, last = levels
    fits = _make_budget_check(oracle, budget)
    while not set(budget) <= set(ADDITIVE_COSTS):
        free = _can_widen(oracle, allowed, budget, counts)
        if not free.any() or _is_spent(oracle, budget, counts):
            break

        def widen_free_groups(to: float, free: NDArray[np.bool_] = free, counts: Counts = counts) -> Counts:
            return np.where(free, np.maximum(path(to), counts), counts)

        low, high = level, last
        if fits(widen_free_groups(high)):
            return widen_free_groups(high), last
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if fits(widen_free_groups(middle)) else (low, middle)
        above = high
        if (widen_free_groups(low) == counts).all():
            break
        counts, level = widen_free_groups(low), low
    return counts, above


def _can_widen(oracle: CostOracle, allowed: Widths, budget: Budget, counts: Counts) -> NDArray[np.bool_]:
    """Which groups can each be one step wider within the budget, (groups,)."""
    wider = _widen_each(allowed, counts)
    able = np.asarray(counts < allowed.sizes)
    for name, limit in _compute_limits(oracle, budget).items():
        able &= oracle.compute_cost(name, wider) <= limit
    return able


def _widen_each(allowed: Widths, counts: Counts) -> Counts:
    """`counts` with one group each a step wider: (groups,) -> (groups, groups)."""
    wider = np.repeat(counts[None], len(counts), axis=0)
    np.fill_diagonal(wider, allowed.widen(counts))
    return wider


def _is_spent(oracle: CostOracle, budget: Budget, counts: Counts) -> bool:
    """Whether a budget on what every channel adds to is used up."""
    limits = _compute_limits(oracle, budget)
    return any(
        limits[name] - int(oracle.compute_cost(name, counts)) <= BUDGET_TOLERANCE * oracle.dense[name]
        for name in limits.keys() & set(ADDITIVE_COSTS)
    )


def _fill(oracle: CostOracle, allowed: Widths, budget: Budget, counts: Counts, ideal: NDArray[np.float64]) -> Counts:
    """`counts` widened step by step while the budget lasts, the group furthest below `ideal` first."""
    counts = counts.copy()
    while not _is_spent(oracle, budget, counts):
        fitting = _can_widen(oracle, allowed, budget, counts)
        if not fitting.any():
            break
        arrears = np.where(fitting, (ideal - counts) / allowed.sizes, -np.inf)
        chosen = int(np.argmax(arrears))
        counts[chosen] = allowed.widen(counts)[chosen]
    return counts
