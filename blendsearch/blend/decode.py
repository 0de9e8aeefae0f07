"""From a genome to a cut: blend the scores, allot the budget, keep the best channels of each group."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
    shares_for,
)
from blendsearch.blend.fixed import Fixed
from blendsearch.blend.genome import Genome, Space, blended
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
    """

    space: Space
    table: ScoreTable
    oracle: CostOracle
    allowed: Widths
    budget: Mapping[str, tuple[float, float]]
    fixed: Fixed | None = None

    def __post_init__(self) -> None:
        check_reachable(self.oracle, self.allowed, self.budget_at(0.0))

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
        """The kept channels, shape (channels,)."""
        return keep_best(blended(self.space.ranks, self.space.weights(genome)), self.counts(genome))

    def counts(self, genome: Genome) -> Counts:
        """Channels kept per group, (groups,)."""
        if self.fixed is not None:
            return self._fixed_at(genome.target)
        return allocate(self.oracle, self.allowed, self.budget_at(genome.target), genome.share)

    @property
    def evolves_widths(self) -> bool:
        """Whether shares decide how much each group keeps."""
        return self.fixed is None

    @cached_property
    def _fixed_at(self) -> Callable[[float], Counts]:
        """The fixed widths at a target: most candidates ask for the same."""
        assert self.fixed is not None
        widths = self.fixed.widths
        return lru_cache(maxsize=256)(lambda target: widths(self.budget_at(target)))

    def seeded(self, genome: Genome, fixed: Fixed) -> Genome:
        """`genome` with the shares that decode to the widths of `fixed` at the genome's budget."""
        return genome._replace(share=shares_for(fixed.widths(self.budget_at(genome.target)), self.allowed.sizes))

    def globally(self, genome: Genome, scores: Sequence[NDArray[np.float64]]) -> Genome:
        """`genome` with the shares that one threshold over all groups' `scores` gives at the genome's budget."""
        counts = allocate_globally(self.oracle, self.allowed, self.budget_at(genome.target), scores)
        return genome._replace(share=shares_for(counts, self.allowed.sizes))


def keep_best(scores: Sequence[NDArray[np.float64]], counts: Counts) -> Cut:
    """Keep the `counts[g]` best-scored channels of each group; of equal ones the first."""
    cuts = []
    for values, count in zip(scores, counts, strict=True):
        kept = np.zeros(len(values), dtype=np.bool_)
        kept[np.argsort(-values, kind="stable")[:count]] = True
        cuts.append(kept)
    return np.concatenate(cuts)
