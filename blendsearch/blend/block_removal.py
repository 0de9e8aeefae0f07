"""Removal of blocks before the budget is allocated: which ones go, and the widths of the groups that stay."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from blendsearch.blend.allocation import Budget, Counts, Widths, allocate, is_reachable, meets_budget
from blendsearch.structure.cost import CostOracle

Mask = NDArray[np.bool_]


def choose_removed_blocks(oracle: CostOracle, allowed: Widths, budget: Budget, genes: NDArray[np.float64]) -> Mask:
    """Choose the blocks to remove, (blocks,): those with a gene above zero, as far as the budget allows.

    Where the other groups cannot meet the budget, blocks with the next highest genes go too. Where they leave some of
    it at their dense widths, blocks with the lowest genes stay, as long as the budget can be met.
    """
    removed = np.asarray(genes > 0)

    def is_removal_enough(tried: Mask) -> bool:
        return is_reachable(oracle, allowed.remove_blocks(tried), budget)

    for block in np.argsort(-genes, kind="stable"):
        if is_removal_enough(removed):
            break
        removed[block] = True
    for block in np.argsort(genes, kind="stable"):
        if not removed[block] or not meets_budget(oracle, allowed.remove_blocks(removed).sizes, budget):
            continue
        fewer = removed.copy()
        fewer[block] = False
        if not is_removal_enough(fewer):
            break
        removed = fewer
    return removed


def allocate_without_blocks(
    oracle: CostOracle, allowed: Widths, budget: Budget, share: NDArray[np.float64], removed: Mask
) -> Counts:
    """Allocate channels as `allocate` does, to the groups outside the `removed` blocks, (blocks,); 0 to the others."""
    kept = np.flatnonzero(allowed.find_kept_groups(removed))
    counts = np.zeros(len(allowed.sizes), dtype=np.int64)
    counts[kept] = allocate(select_groups(oracle, kept), allowed.select(kept), budget, share[kept])
    return counts


def select_groups(oracle: CostOracle, kept: NDArray[np.int64]) -> CostOracle:
    """Return `oracle` as a function of the widths of the `kept` groups alone; the others have no channel."""

    def widen(cost: Callable[[Counts], Counts]) -> Callable[[Counts], Counts]:
        def compute_cost(counts: Counts) -> Counts:
            complete = np.zeros((*counts.shape[:-1], oracle.slope.shape[1]), dtype=np.int64)
            complete[..., kept] = counts
            return cost(complete)

        return compute_cost

    return oracle.select_groups(kept, {name: widen(cost) for name, cost in oracle.extra_costs.items()})
