"""Allocation: channels kept per group, so that a budget is met: never exceeded, and reached as closely as possible."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from blendsearch.blend.genome import SHARE_SCALE
from blendsearch.errors import BudgetError
from blendsearch.structure.cost import CostOracle

Counts = NDArray[np.int64]
Budget = Mapping[str, float]
"""Largest ratio to the dense network, in (0, 1], of each budgeted cost (any that the oracle knows)."""

ADDITIVE_COSTS = ("macs", "params")
"""Costs to which every channel adds. Peak memory is not one: layers outside the peak are free until they make
another.
"""

UNITS = {"memory": " bytes", "latency": " ns"}

BUDGET_TOLERANCE = 0.001
"""Share of the dense cost: filling stops when a budgeted cost is this close to its budget."""

EXCHANGE_TOLERANCE = 0.003
"""Share of the dense cost: steps are exchanged between groups when coarse steps leave more of a budget than this."""

MAX_EXCHANGES = 8
"""Largest number of exchanges; each one leaves less of the budget."""

AUTO_STEPS = (8, 4, 2)
"""Steps of `auto`, the coarsest first; 1 where none of them applies.

Kernels compute channels in blocks. In ONNX Runtime, at 50 % of its MACs, MobileNetV2 takes 1.23 times as long as the
dense network with widths of any number, 0.58 times with multiples of 4, 0.57 with 8 and 0.56 with 16
(experiments/performance/widths.py).
"""

AUTO_LEAST = 4
"""Multiple of the least width of a group by `auto`, where its step is coarser."""

AUTO_WIDTHS = 4
"""Least number of widths that `auto` leaves to a group, up to the width of a uniform cut at the budget.

With the whole group: 8 from 32 channels, 4 from 16, 2 from 8. Small budgets need finer steps: at 12.5 % of the MACs of
ResNet-20, steps chosen by the whole groups end a search of 100 evaluations at a loss of 4.04, steps of 1 at 3.64.
With 8 widths, groups of 16 to 31 channels get a step of 2, and small networks stay slow: three of five networks of
digits_net at half of the MACs were slower than the dense one. With 3, groups of 24 channels have three widths, and
budgets are met less closely for no time.
"""

RoundTo = int | Literal["auto"]


@dataclass(frozen=True, eq=False)
class Widths:
    """Allowed widths of groups: `low` to `sizes` in steps of `step`, or the dense width; each (groups,).

    `exchanges`: whether steps are exchanged between groups where much of a budget is left. Runs with one step for all
    groups do without, as they did in earlier versions. `blocks`: sets of groups, by number, that may have no channel.
    """

    sizes: Counts
    low: Counts
    step: Counts
    exchanges: bool = False
    blocks: tuple[tuple[int, ...], ...] = ()

    @property
    def least(self) -> Counts:
        """Least widths of any cut, (groups,): zero inside removable blocks."""
        return self.remove_blocks(np.ones(len(self.blocks), dtype=np.bool_)).low

    def find_kept_groups(self, removed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return False for the groups inside `removed` blocks, (blocks,), and True for the others: (groups,)."""
        kept = np.ones(len(self.sizes), dtype=np.bool_)
        kept[[group for block in np.flatnonzero(removed) for group in self.blocks[block]]] = False
        return kept

    def remove_blocks(self, removed: NDArray[np.bool_]) -> "Widths":
        """Return these widths with no channel in `removed` blocks, (blocks,)."""
        kept = self.find_kept_groups(removed)
        return replace(self, sizes=self.sizes * kept, low=self.low * kept)

    def select(self, groups: NDArray[np.int64]) -> "Widths":
        """Return the widths of some groups, without blocks."""
        return Widths(self.sizes[groups], self.low[groups], self.step[groups], self.exchanges)

    def round(self, targets: NDArray[np.float64]) -> Counts:
        """Round to the nearest allowed counts, halves up: (..., groups) -> (..., groups)."""
        steps: Counts = np.floor(targets / self.step + 0.5).astype(np.int64) * self.step
        within = np.clip(steps, self.low, self.sizes)
        return np.asarray(np.where(targets > self.sizes - self.step / 2, self.sizes, within))

    def widen(self, counts: Counts) -> Counts:
        """Widen each group by one step, at most to its dense width."""
        return np.asarray(np.minimum((counts // self.step + 1) * self.step, self.sizes))

    def narrow(self, counts: Counts) -> Counts:
        """Narrow each group by one step, at most to its least width."""
        return np.asarray(np.maximum((-(-counts // self.step) - 1) * self.step, self.low))


def make_widths(sizes: Counts, min_channels: int, min_keep: float, round_to: RoundTo, share: float = 1.0) -> Widths:
    """Make the allowed widths: at least `min_channels` and the share `min_keep` of each group, in multiples of
    `round_to`.

    A group narrower than the number `round_to` keeps all its channels. `auto` chooses the multiple by group: the
    coarsest of `AUTO_STEPS` that leaves `AUTO_WIDTHS` widths up to that of a uniform cut to the `share` of the cost.
    Its least width may be 4 where the multiple is 8, so that low budgets stay in reach.
    """
    step = _choose_steps(sizes, share) if round_to == "auto" else np.where(sizes >= round_to, round_to, sizes)
    least = np.maximum(min_channels, np.ceil(min_keep * sizes)).astype(np.int64)
    unit = np.minimum(step, AUTO_LEAST) if round_to == "auto" else step
    low = np.minimum(-(-least // unit) * unit, sizes)
    return Widths(sizes, low, step, exchanges=round_to == "auto")


def _choose_steps(sizes: Counts, share: float) -> Counts:
    """Choose the step of each group by `auto`: (groups,). Costs grow with the square of the widths."""
    steps, uniform = np.ones_like(sizes), sizes * np.sqrt(share)
    for step in reversed(AUTO_STEPS):
        steps[uniform // step >= AUTO_WIDTHS] = step
    return steps


def compute_min_ratios(oracle: CostOracle, allowed: Widths) -> dict[str, float]:
    """Compute the smallest ratio of each cost that any cut can have; the largest is 1."""
    return {name: float(oracle.compute_ratio(name, allowed.least)) for name in oracle.dense}


def check_reachable(oracle: CostOracle, allowed: Widths, budget: Budget) -> None:
    """Raise BudgetError, with the reachable range, if no allowed cut meets `budget`."""
    least = compute_min_ratios(oracle, allowed)
    for name, ratio in budget.items():
        if ratio < least[name]:
            raise BudgetError(
                f"no cut keeps {100 * ratio:.3g}% of the dense {name}: reachable is {least[name]:.1%} to 100 % "
                f"({int(oracle.compute_cost(name, allowed.least)):,} to {oracle.dense[name]:,}{UNITS.get(name, '')}); "
                f"raise the budget, or lower the minimum width of groups (budget.min_channels, min_keep, round_to)"
            )


def is_reachable(oracle: CostOracle, allowed: Widths, budget: Budget) -> bool:
    """Return True if the least widths meet `budget`."""
    return meets_budget(oracle, allowed.low, budget)


def meets_budget(oracle: CostOracle, counts: Counts, budget: Budget) -> bool:
    """Return True if channels kept per group, (groups,), meet every budget."""
    return bool(_make_budget_check(oracle, budget)(counts))


def allocate(oracle: CostOracle, allowed: Widths, budget: Budget, share: NDArray[np.float64]) -> Counts:
    """Allocate channels to groups by shares in [-1, 1], (groups,); every budgeted cost is at or below its budget.

    A group keeps the part sigmoid(SHARE_SCALE * share + t) of its channels, with one threshold t for the network, found
    by bisection. If a budget binds only some groups (peak memory), the others are widened further, up to their own
    threshold. The rest of the budget after rounding is filled by the groups that are furthest below their target.
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
    # costs grow with the threshold: many are evaluated at once, and the interval shrinks by that factor
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
    """Allocate channels to groups by one threshold over all groups' scores; `scores` holds one (C,) per group."""
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
    """Allocate channels to groups at the highest level of `path` that meets the budget, then fill the rest of the
    budget.

    `path` returns target widths at a level, (groups,), which never fall with the level; `levels` are its first and
    last.
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
    """Compute the shares for which `allocate` keeps `counts` at the same budget, clipped to [-1, 1]: (groups,)."""
    kept = np.clip(counts / sizes, 0.25 / sizes, 1 - 0.25 / sizes)
    odds = np.log(kept / (1 - kept))
    return np.asarray(np.clip((odds - np.median(odds)) / SHARE_SCALE, -1, 1))


def _compute_limits(oracle: CostOracle, budget: Budget) -> dict[str, int]:
    """Compute the largest absolute cost of each budget."""
    return {name: int(np.floor(ratio * oracle.dense[name] + 1e-9)) for name, ratio in budget.items()}


def _make_budget_check(oracle: CostOracle, budget: Budget) -> Callable[[Counts], NDArray[np.bool_]]:
    """Make a function that returns True for counts that meet every budget: (..., groups) -> (...)."""
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
    """Widen along `path` the groups that no budget limits; return the counts, and the level just above the end.

    `path` returns the counts at a level, which never fall with it. `levels` are the level of `counts`, the one just
    above it, and the last. Groups that cannot be widened by a step stay; the others rise together until one of them
    cannot. This is max-min fairness by progressive filling. If all costs are additive, the first stop is the last.
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
    """Return True for each group that can be one step wider within the budget, (groups,)."""
    wider = _widen_each(allowed, counts)
    able = np.asarray(counts < allowed.sizes)
    for name, limit in _compute_limits(oracle, budget).items():
        able &= oracle.compute_cost(name, wider) <= limit
    return able


def _widen_each(allowed: Widths, counts: Counts) -> Counts:
    """Return `counts` with one group at a time a step wider: (groups,) -> (groups, groups)."""
    wider = np.repeat(counts[None], len(counts), axis=0)
    np.fill_diagonal(wider, allowed.widen(counts))
    return wider


def _is_spent(oracle: CostOracle, budget: Budget, counts: Counts) -> bool:
    """Return True if a budget on an additive cost is used up."""
    return bool(_compute_slack(oracle, budget, counts) <= BUDGET_TOLERANCE)


def _compute_slack(oracle: CostOracle, budget: Budget, counts: Counts) -> NDArray[np.float64]:
    """Compute the rest of the additive budget that binds most, a share of the dense cost: (..., groups) -> (...).

    It is negative above the budget, and infinite if no budgeted cost is additive.
    """
    slack = np.full(counts.shape[:-1], np.inf)
    for name, limit in _compute_limits(oracle, budget).items():
        if name in ADDITIVE_COSTS:
            slack = np.minimum(slack, (limit - oracle.compute_cost(name, counts)) / oracle.dense[name])
    return slack


def _fill(oracle: CostOracle, allowed: Widths, budget: Budget, counts: Counts, ideal: NDArray[np.float64]) -> Counts:
    """Fill the rest of the budget: widen groups step by step, and exchange steps of groups where much is left."""
    counts = _widen_while_able(oracle, allowed, budget, counts, ideal)
    for _ in range(MAX_EXCHANGES if allowed.exchanges else 0):
        slack = float(_compute_slack(oracle, budget, counts))
        is_coarse = EXCHANGE_TOLERANCE < slack < np.inf
        found = _find_exchange(oracle, allowed, budget, counts, ideal, slack) if is_coarse else None
        if found is None:
            break
        counts = _widen_while_able(oracle, allowed, budget, found, ideal)
    return counts


def _find_exchange(
    oracle: CostOracle, allowed: Widths, budget: Budget, counts: Counts, ideal: NDArray[np.float64], left: float
) -> Counts | None:
    """Find counts with one group a step narrower and another a step wider, which leave less of the budget than `left`.

    Returns those nearest to `ideal` among the ones within `EXCHANGE_TOLERANCE`, or else those that leave least; None if
    there are none.
    """
    pairs = _exchange_each(allowed, counts)
    slack = _compute_slack(oracle, budget, pairs)
    better = _make_budget_check(oracle, budget)(pairs) & (slack < left)
    if not better.any():
        return None
    near = better & (slack <= EXCHANGE_TOLERANCE)
    distance = np.abs((pairs - ideal) / allowed.sizes).max(axis=1)
    chosen = np.argmin(np.where(near, distance, np.inf) if near.any() else np.where(better, slack, np.inf))
    return np.asarray(pairs[chosen])


def _exchange_each(allowed: Widths, counts: Counts) -> Counts:
    """Return `counts` with each pair of one group a step narrower and another a step wider: (pairs, groups)."""
    down, up = np.meshgrid(np.flatnonzero(counts > allowed.low), np.flatnonzero(counts < allowed.sizes), indexing="ij")
    down, up = down[down != up], up[down != up]
    pairs = np.repeat(counts[None], len(down), axis=0)
    rows = np.arange(len(down))
    pairs[rows, down] = allowed.narrow(counts)[down]
    pairs[rows, up] = allowed.widen(counts)[up]
    return pairs


def _widen_while_able(
    oracle: CostOracle, allowed: Widths, budget: Budget, counts: Counts, ideal: NDArray[np.float64]
) -> Counts:
    """Widen groups step by step while the budget lasts, the group furthest below `ideal` first."""
    counts = counts.copy()
    while not _is_spent(oracle, budget, counts):
        fitting = _can_widen(oracle, allowed, budget, counts)
        if not fitting.any():
            break
        shortfall = np.where(fitting, (ideal - counts) / allowed.sizes, -np.inf)
        chosen = int(np.argmax(shortfall))
        counts[chosen] = allowed.widen(counts)[chosen]
    return counts
