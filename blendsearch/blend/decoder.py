"""From a genome to a cut: blend the scores, allot the budget, keep the best channels of each group."""

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
    reaches,
    shares_for,
)
from blendsearch.blend.allocation_rules import Fixed
from blendsearch.blend.genome import NONE, Genome, Space, blended
from blendsearch.criteria.table import ScoreTable
from blendsearch.structure.cost import CostOracle
from blendsearch.structure.groups import Cut


@dataclass(frozen=True, eq=False)
class Decoder:
    """Genomes of one run -> cuts that meet its budget.

    Attributes
    ----------
    budget: for each budgeted cost, its least and largest ratio to the dense cost; equal where one budget is asked.
    fixed: the allocation that every cut takes, whatever its genome's shares; None where the shares decide.
    misfit: (layers,) what part of its dense kernels each layer loses when it is decomposed.
    """

    space: Space
    table: ScoreTable
    oracle: CostOracle
    allowed: Widths
    budget: Mapping[str, tuple[float, float]]
    fixed: Fixed | None = None
    misfit: NDArray[np.float64] = field(default_factory=lambda: NONE)

    def __post_init__(self) -> None:
        check_reachable(self.oracle.all_decomposed, self.allowed, self.budget_at(0.0))

    @property
    def spans(self) -> bool:
        """Whether the budgets span a range, so that the search returns a front over costs."""
        return bool(self.spanned)

    @property
    def spanned(self) -> tuple[str, ...]:
        """The costs whose budgets span a range."""
        return tuple(name for name, (low, high) in self.budget.items() if high > low)

    def budget_at(self, target: float) -> Budget:
        """The budget that the gene `target`, in [0, 1], asks for."""
        return {name: low + (high - low) * target for name, (low, high) in self.budget.items()}

    def cut(self, genome: Genome) -> Cut:
        """The kept channels, then the layers that stay whole, shape (channels,)."""
        counts = self.counts(genome)
        kept = keep_best(blended(self.space.ranks, self.space.weights(genome)), counts)
        # a narrow layer may cost less whole: the cut only gets cheaper
        return np.concatenate([kept, self.whole(genome) | ~self.oracle.paying(counts)])

    def counts(self, genome: Genome) -> Counts:
        """Channels kept per group, (groups,)."""
        if self.fixed is not None:
            return self._fixed_at(genome.target, self.whole(genome).tobytes())
        return allocate(self.oracle_of(genome), self.allowed, self.budget_at(genome.target), genome.share)

    def whole(self, genome: Genome) -> NDArray[np.bool_]:
        """Which layers the genome leaves whole, as far as its budget can be met then, (layers,)."""
        layers = len(self.oracle.layers)
        genes = genome.transform if len(genome.transform) else np.full(layers, -1.0)
        whole = genes <= 0
        if not self.budget:
            return whole
        waiting = [layer for layer in np.argsort(-genes, kind="stable") if whole[layer]]
        budget = self.budget_at(genome.target)
        while waiting and not reaches(self.oracle.with_whole(whole), self.allowed, budget):
            whole[waiting.pop(0)] = False
        return whole

    def meets(self, whole: NDArray[np.bool_], target: float) -> bool:
        """Whether the network with all channels meets the budget at `target` when these layers are whole, (layers,)."""
        budget = self.budget_at(target)
        oracle, sizes = self.oracle.with_whole(whole), self.allowed.sizes
        return all(float(oracle.ratio(name, sizes)) <= ratio for name, ratio in budget.items())

    def oracle_of(self, genome: Genome) -> CostOracle:
        """What networks cost in which the genome's layers are decomposed."""
        return self.oracle.with_whole(self.whole(genome))

    @property
    def evolves_widths(self) -> bool:
        """Whether shares decide how much each group keeps."""
        return self.fixed is None

    @cached_property
    def _fixed_at(self) -> Callable[[float, bytes], Counts]:
        """The fixed widths at a target, by which layers are whole: most candidates ask for the same."""
        assert self.fixed is not None
        widths = self.fixed.widths

        def counts(target: float, whole: bytes) -> Counts:
            oracle = self.oracle.with_whole(np.frombuffer(whole, dtype=np.bool_))
            return widths(oracle, self.budget_at(target))

        return lru_cache(maxsize=256)(counts)

    def seeded(self, genome: Genome, fixed: Fixed) -> Genome:
        """`genome` with the shares that decode to the widths of `fixed` at the genome's budget."""
        counts = fixed.widths(self.oracle_of(genome), self.budget_at(genome.target))
        return genome._replace(share=shares_for(counts, self.allowed.sizes))

    def globally(self, genome: Genome, scores: Sequence[NDArray[np.float64]]) -> Genome:
        """`genome` with the shares that one threshold over all groups' `scores` gives at the genome's budget."""
        oracle = self.oracle_of(genome)
        counts = allocate_globally(oracle, self.allowed, self.budget_at(genome.target), scores)
        return genome._replace(share=shares_for(counts, self.allowed.sizes))


def keep_best(scores: Sequence[NDArray[np.float64]], counts: Counts) -> Cut:
    """Keep the `counts[g]` best-scored channels of each group; of equal ones the first."""
    cuts = []
    for values, count in zip(scores, counts, strict=True):
        kept = np.zeros(len(values), dtype=np.bool_)
        kept[np.argsort(-values, kind="stable")[:count]] = True
        cuts.append(kept)
    return np.concatenate(cuts)
