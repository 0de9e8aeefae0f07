"""From the norms of channels to the level that meets the budget, and to the cut."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from blendsearch.blend.allocation import Budget, Counts, Widths
from blendsearch.structure.cost import CostOracle
from blendsearch.structure.groups import Cut

Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Shrinkage:
    """The selection of channels by their norms, (channels,); `weights`, (channels,), scale the pressure on each.

    The largest channels of each group, as many as its least width, are protected.
    """

    oracle: CostOracle
    allowed: Widths
    budget: Budget
    weights: Vector

    @cached_property
    def group_index(self) -> NDArray[np.int64]:
        """The group of each channel, (channels,)."""
        return np.repeat(np.arange(len(self.allowed.sizes)), self.allowed.sizes)

    def compute_level(self, norms: Vector) -> float:
        """Compute the least level at which the budget is met without the channels of norm <= level x weight."""
        order, needed = self._find_removals(norms)
        return float((norms / self.weights)[order[needed - 1]]) if needed else 0.0

    def compute_ratio(self, name: str, norms: Vector) -> float:
        """Compute the cost of the channels that are not at zero, as a share of the dense cost."""
        alive = np.bincount(self.group_index[norms > 0], minlength=len(self.allowed.sizes))
        return float(self.oracle.compute_ratio(name, self._round_up(alive)))

    def select_protected(self, norms: Vector) -> Cut:
        """Select the channels that are protected at these norms, (channels,)."""
        spared = np.zeros(len(norms), dtype=np.bool_)
        for group, least in enumerate(self.allowed.low):
            mine = np.flatnonzero(self.group_index == group)
            spared[mine[np.argsort(-norms[mine], kind="stable")[:least]]] = True
        return spared

    def make_cut(self, norms: Vector) -> Cut:
        """Make the cut at the budget, (channels,): without the least channels, but with every one that still fits."""
        order, needed = self._find_removals(norms)
        gone = order[:needed]
        kept = np.ones(len(norms), dtype=np.bool_)
        kept[gone] = False
        counts = self._count_kept(gone)
        for channel in gone[::-1]:
            if norms[channel] == 0:
                break
            counts[self.group_index[channel]] += 1
            if self._is_within_budget(counts):
                kept[channel] = True
            else:
                counts[self.group_index[channel]] -= 1
        # widths are rounded up to a multiple with the largest of the removed channels
        for group, wanted in enumerate(self._round_up(counts)):
            out = gone[(self.group_index[gone] == group) & ~kept[gone]]
            kept[out[::-1][: wanted - counts[group]]] = True
        return kept

    def _find_removals(self, norms: Vector) -> tuple[NDArray[np.int64], int]:
        """Order the channels that may be removed, the least first, and count those that must be."""
        order = np.argsort(norms / self.weights, kind="stable")
        order = order[~self.select_protected(norms)[order]]
        low, high = 0, len(order)
        while low < high:
            middle = (low + high) // 2
            low, high = (
                (low, middle) if self._is_within_budget(self._count_kept(order[:middle])) else (middle + 1, high)
            )
        return order, low

    def _count_kept(self, removed: NDArray[np.int64]) -> Counts:
        return self.allowed.sizes - np.bincount(self.group_index[removed], minlength=len(self.allowed.sizes))

    def _round_up(self, counts: Counts) -> Counts:
        """Return the least allowed widths that hold `counts` channels."""
        held = self.allowed
        return np.asarray(np.clip(-(-counts // held.step) * held.step, held.low, held.sizes))

    def _is_within_budget(self, counts: Counts) -> bool:
        widths = self._round_up(counts)
        return all(float(self.oracle.compute_ratio(name, widths)) <= ratio for name, ratio in self.budget.items())
