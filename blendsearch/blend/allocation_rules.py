"""Allocation rules: widths found before the search, so that only the blend is searched.

`AllocationRule.widths` returns their widths at a budget; `allocation.compute_shares` turns widths into genes.
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
"""Takes the place of a criterion's name: all criteria with equal weights."""


class AllocationRule(NamedTuple):
    """Widths that do not depend on the genome: a function from costs and budget to channels kept per group.

    `name` is the method of allocation. The oracle is an argument because a genome may decompose layers.
    """

    name: str
    widths: Callable[[CostOracle, Budget], Counts]


@dataclass(frozen=True, eq=False)
class PreparedAllocation:
    """Allocation whose method did work on the network.

    Attributes
    ----------
    rule: its widths.
    cut: the channels that the method keeps; None if it only determines widths.
    weights: the network of that cut as the method trained it, if it did.
    seconds: run time of the method.
    """

    rule: AllocationRule
    cut: Cut | None = None
    weights: Mapping[str, NDArray[Any]] | None = None
    seconds: float = 0.0


def make_constant_rule(counts: Counts) -> AllocationRule:
    """Make a rule with the same widths at every budget."""
    return AllocationRule("given", lambda oracle, budget: counts)


def make_uniform_rule(allowed: Widths) -> AllocationRule:
    """Make a rule with one ratio for every group."""
    return AllocationRule(
        "uniform", lambda oracle, budget: allocate(oracle, allowed, budget, np.zeros(len(allowed.sizes)))
    )


def make_path_rule(
    name: str,
    allowed: Widths,
    path: Callable[[float], NDArray[np.float64]],
    levels: tuple[float, float],
) -> AllocationRule:
    """Make a rule with the widths at the level of `path` that meets the budget; see `allocation.allocate_along`."""
    return AllocationRule(name, lambda oracle, budget: allocate_along(oracle, allowed, budget, path, levels))


def make_global_rule(table: ScoreTable, oracle: CostOracle, allowed: Widths, criterion: str) -> AllocationRule:
    """Make a rule with one threshold over the raw scores of `criterion` per multiply-accumulate.

    For the blend, uses the mean of all criteria's shares. Raises ConfigError if the criterion is not in the table, or
    has no score in some group.
    """
    rows = range(len(table.criteria)) if criterion == BLEND else [find_row(table, criterion)]
    found = [(row, compute_global_scores(table, oracle, allowed, row)) for row in rows]
    usable = [scores for _, scores in found if scores is not None]
    if not usable:
        raise ConfigError(
            f"allocating.criterion {criterion!r} has no score in some group, so no threshold over the network: name "
            "another of criteria.pool, or choose another allocation"
        )
    if criterion != BLEND:
        return AllocationRule("global", lambda costs, budget: allocate_globally(costs, allowed, budget, usable[0]))

    def allocate_mean_shares(costs: CostOracle, budget: Budget) -> Counts:
        shares = [compute_shares(allocate_globally(costs, allowed, budget, item), allowed.sizes) for item in usable]
        return allocate(costs, allowed, budget, np.mean(shares, axis=0))

    return AllocationRule("global", allocate_mean_shares)


def compute_global_scores(
    table: ScoreTable, oracle: CostOracle, allowed: Widths, row: int
) -> list[NDArray[np.float64]] | None:
    """Divide a criterion's raw scores by the multiply-accumulates of the channel; None if a group has no score.

    Raw scores are used because ranks of different groups do not compare.
    """
    per_channel = oracle.compute_cost_per_channel("macs", allowed.sizes)
    scores = [values[row] / cost for values, cost in zip(table.scores, per_channel, strict=True)]
    return scores if all(np.isfinite(values).all() for values in scores) else None


def find_row(table: ScoreTable, criterion: str) -> int:
    """Return the criterion's row number. Raises ConfigError if it is not in the pool."""
    if criterion not in table.criteria:
        raise ConfigError(
            f"allocating.criterion is {criterion!r}, which is not scored: expected {BLEND} or one of "
            f"{', '.join(table.criteria)}"
        )
    return table.criteria.index(criterion)
