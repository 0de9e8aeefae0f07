"""Decoding of a genome to a cut: blend the scores, allocate the budget, keep the best channels of each group."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from blendsearch.blend.allocation import (
    Budget,
    Counts,
    Widths,
    allocate,
    allocate_globally,
    check_reachable,
    compute_shares,
    is_reachable,
)
from blendsearch.blend.allocation_rules import AllocationRule
from blendsearch.blend.block_removal import allocate_without_blocks, choose_removed_blocks
from blendsearch.blend.genome import NO_GENES, Genome, Space, blend_ranks
from blendsearch.criteria.table import ScoreTable
from blendsearch.structure.cost import CostOracle
from blendsearch.structure.groups import Cut


@dataclass(frozen=True, eq=False)
class Decoder:
    """Decodes genomes of one run to cuts that meet its budget.

    Attributes
    ----------
    budget: for each budgeted cost, its least and largest ratio to the dense cost; equal for a single budget.
    allocation_rule: widths of every cut, independent of the genome's shares; None if the shares determine them.
    misfit: (layers,) share of its dense kernels that each layer loses when it is decomposed.
    """

    space: Space
    table: ScoreTable
    oracle: CostOracle
    allowed: Widths
    budget: Mapping[str, tuple[float, float]]
    allocation_rule: AllocationRule | None = None
    misfit: NDArray[np.float64] = field(default_factory=lambda: NO_GENES)

    def __post_init__(self) -> None:
        check_reachable(self.oracle.all_decomposed, self.allowed, self.compute_budget(0.0))

    @property
    def has_budget_range(self) -> bool:
        """True if the budgets span a range, so that the search returns a front over costs."""
        return bool(self.ranged_costs)

    @property
    def ranged_costs(self) -> tuple[str, ...]:
        """Costs whose budgets span a range."""
        return tuple(name for name, (low, high) in self.budget.items() if high > low)

    def compute_budget(self, target: float) -> Budget:
        """Compute the budget at the gene `target`, in [0, 1]."""
        return {name: low + (high - low) * target for name, (low, high) in self.budget.items()}

    def decode(self, genome: Genome) -> Cut:
        """Decode to the kept channels, then the undecomposed layers, (channels,)."""
        counts = self.decode_counts(genome)
        kept = keep_best(blend_ranks(self.space.ranks, self.space.compute_weights(genome)), counts)
        # a narrow layer may cost less undecomposed, which only makes the cut cheaper
        return np.concatenate([kept, self.decode_undecomposed(genome) | ~self.oracle.is_cheaper_decomposed(counts)])

    def decode_counts(self, genome: Genome) -> Counts:
        """Decode to the channels kept per group, (groups,)."""
        if self.allocation_rule is not None:
            return self._cached_counts(genome.target, self.decode_undecomposed(genome).tobytes())
        budget = self.compute_budget(genome.target)
        if self.allowed.blocks:
            removed = self.decode_removed_blocks(genome)
            return allocate_without_blocks(self.oracle, self.allowed, budget, genome.share, removed)
        return allocate(self.make_oracle(genome), self.allowed, budget, genome.share)

    def decode_removed_blocks(self, genome: Genome) -> NDArray[np.bool_]:
        """Decode to the removed blocks, (blocks,), as far as the genome's budget allows."""
        return choose_removed_blocks(self.oracle, self.allowed, self.compute_budget(genome.target), genome.transform)

    def decode_undecomposed(self, genome: Genome) -> NDArray[np.bool_]:
        """Decode to the undecomposed layers, (layers,), as far as the genome's budget allows."""
        layers = len(self.oracle.layers)
        genes = genome.transform if layers and len(genome.transform) else np.full(layers, -1.0)
        undecomposed = genes <= 0
        if not self.budget:
            return undecomposed
        candidates = [layer for layer in np.argsort(-genes, kind="stable") if undecomposed[layer]]
        budget = self.compute_budget(genome.target)
        while candidates and not is_reachable(self.oracle.decompose_except(undecomposed), self.allowed, budget):
            undecomposed[candidates.pop(0)] = False
        return undecomposed

    def is_within_budget(self, undecomposed: NDArray[np.bool_], target: float) -> bool:
        """Return True if the network with all channels and these undecomposed layers, (layers,), meets the budget at
        `target`.
        """
        budget = self.compute_budget(target)
        oracle, sizes = self.oracle.decompose_except(undecomposed), self.allowed.sizes
        return all(float(oracle.compute_ratio(name, sizes)) <= ratio for name, ratio in budget.items())

    def make_oracle(self, genome: Genome) -> CostOracle:
        """Make the cost oracle of networks with the genome's layers decomposed."""
        return self.oracle.decompose_except(self.decode_undecomposed(genome))

    @property
    def evolves_widths(self) -> bool:
        """True if shares determine the widths of groups."""
        return self.allocation_rule is None

    @cached_property
    def _cached_counts(self) -> Callable[[float, bytes], Counts]:
        """Widths of the allocation rule by target and undecomposed layers, cached: most candidates use the same
        ones.
        """
        assert self.allocation_rule is not None
        widths = self.allocation_rule.widths

        def compute_counts(target: float, undecomposed: bytes) -> Counts:
            oracle = self.oracle.decompose_except(np.frombuffer(undecomposed, dtype=np.bool_))
            return widths(oracle, self.compute_budget(target))

        return lru_cache(maxsize=256)(compute_counts)

    def apply_allocation(self, genome: Genome, rule: AllocationRule) -> Genome:
        """Return `genome` with the shares that decode to the widths of `rule` at the genome's budget."""
        counts = rule.widths(self.make_oracle(genome), self.compute_budget(genome.target))
        return genome._replace(share=compute_shares(counts, self.allowed.sizes))

    def apply_global_threshold(self, genome: Genome, scores: Sequence[NDArray[np.float64]]) -> Genome:
        """Return `genome` with the shares of one threshold over all groups' `scores` at the genome's budget."""
        oracle = self.make_oracle(genome)
        counts = allocate_globally(oracle, self.allowed, self.compute_budget(genome.target), scores)
        return genome._replace(share=compute_shares(counts, self.allowed.sizes))


def keep_best(scores: Sequence[NDArray[np.float64]], counts: Counts) -> Cut:
    """Keep the `counts[g]` channels of each group with the highest scores; the first ones of equals."""
    return np.concatenate([_keep_highest(values, int(count)) for values, count in zip(scores, counts, strict=True)])


def _keep_highest(values: NDArray[np.float64], count: int) -> NDArray[np.bool_]:
    """Keep what a stable sort puts first; a partition takes a third of its time."""
    if count >= len(values) or count < 1:
        return np.full(len(values), count >= 1)
    falling = -values
    last = np.partition(falling, count - 1)[count - 1]
    if np.isnan(last):  # NaN is the least score
        return np.isin(np.arange(len(values)), np.argsort(falling, kind="stable")[:count])
    kept: NDArray[np.bool_] = falling < last
    kept[np.flatnonzero(falling == last)[: count - int(np.count_nonzero(kept))]] = True
    return kept
