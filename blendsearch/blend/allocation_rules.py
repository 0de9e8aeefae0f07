"""Named allocations: widths that are found beforehand, so that only the blend is left to search.

All of them are read at a budget through one door, `Fixed.widths`, and become genes of the search through another,
`allocation.shares_for`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blendsearch.blend.allocation import (
    Budget,
    Counts,
    Widths,
    allocate,
    allocate_along,
    allocate_globally,
    compute_shares,
)
from blendsearch.criteria.table import ScoreTable
from blendsearch.errors import ConfigError
from blendsearch.structure.cost import CostOracle
from blendsearch.structure.groups import Cut

BLEND = "blend"
"""In the place of a criterion's name: all of them, alike."""


class AllocationRule(NamedTuple):
    """Channels kept per group at a budget, whatever the genome; `name` says whose widths these are.

    What networks cost comes with the budget, since layers may be decomposed.
    """

    name: str
    widths: Callable[[CostOracle, Budget], Counts]


@dataclass(frozen=True, eq=False)
class PreparedAllocation:
    """An allocation that took work on the network to find.

    Attributes
    ----------
    fixed: its widths.
    cut: the channels that its method keeps, where that says more than widths.
    weights: the state of the network of that cut as the method trained it, where it did.
    seconds: how long the method took.
    """

    rule: AllocationRule
    cut: Cut | None = None
    weights: Mapping[str, NDArray[Any]] | None = None
    seconds: float = 0.0


def make_constant_rule(counts: Counts) -> AllocationRule:
    """The same widths at every budget."""
    return AllocationRule("given", lambda oracle, budget: counts)


def make_uniform_rule(allowed: Widths) -> AllocationRule:
    """One ratio for every group."""
    return AllocationRule(
        "uniform", lambda oracle, budget: allocate(oracle, allowed, budget, np.zeros(len(allowed.sizes)))
    )


def make_path_rule(
    name: str,
    allowed: Widths,
    path: Callable[[float], NDArray[np.float64]],
    levels: tuple[float, float],
) -> AllocationRule:
    """The widths at the level of `path` where the budget is met; see `allocation.allocate_along`."""
    return AllocationRule(name, lambda oracle, budget: allocate_along(oracle, allowed, budget, path, levels))


def make_global_rule(table: ScoreTable, oracle: CostOracle, allowed: Widths, criterion: str) -> AllocationRule:
    """One threshold over the raw scores of `criterion` per multiply-accumulate; for the blend the mean of all shares.

    Raises ConfigError where the criterion is not there, or has no score in some group.
    """
    rows = range(len(table.criteria)) if criterion == BLEND else [find_row(table, criterion)]
    found = [(row, compute_global_scores(table, oracle, allowed, row)) for row in rows]
    usable = [scores for _, scores in found if scores is not None]
    if not usable:
        raise ConfigError(
            f"allocating.criterion {criterion!r} has no score in some group, so no threshold over the network: name "
            "another of criteria.pool, or give another allocation"
        )
    if criterion != BLEND:
        return AllocationRule("global", lambda held, budget: allocate_globally(held, allowed, budget, usable[0]))

    def allocate_mean_shares(held: CostOracle, budget: Budget) -> Counts:
        shares = [compute_shares(allocate_globally(held, allowed, budget, item), allowed.sizes) for item in usable]
        return allocate(held, allowed, budget, np.mean(shares, axis=0))

    return AllocationRule("global", allocate_mean_shares)


def compute_global_scores(
    table: ScoreTable, oracle: CostOracle, allowed: Widths, row: int
) -> list[NDArray[np.float64]] | None:
    """Raw scores of a criterion per multiply-accumulate that goes with the channel; None where a group has none.

    Raw, because only so do scores of different groups compare.
    """
    per_channel = oracle.compute_cost_per_channel("macs", allowed.sizes)
    scores = [values[row] / cost for values, cost in zip(table.scores, per_channel, strict=True)]
    return scores if all(np.isfinite(values).all() for values in scores) else None


def find_row(table: ScoreTable, criterion: str) -> int:
    """The criterion's row number. Raises ConfigError where it is not in the pool."""
    if criterion not in table.criteria:
        raise ConfigError(
            f"allocating.criterion is {criterion!r}, which is not scored: expected {BLEND} or one of "
            f"{', '.join(table.criteria)}"
        )
    return table.criteria.index(criterion)
