"""The optimizer of methods with a fixed set of networks, and the base of methods that end with one."""

from collections.abc import Sequence

import numpy as np

from blendsearch.blend.genome import Genome, GenomeFields
from blendsearch.pipeline.methods.method import Method
from blendsearch.pipeline.optimizers.base import Candidate, Optimizer
from blendsearch.pipeline.optimizers.one_shot import OneShot
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.structure.groups import Cut, compute_cut_digest


class FixedCandidates(OneShot):
    """The optimizer: proposes the named `networks` once."""

    def __init__(self, problem: Problem, networks: Sequence[tuple[str, Cut]]) -> None:
        self.networks, self.groups = networks, problem.decoder.space.groups

    def ask_first(self, seeds: Sequence[tuple[str, Genome]], limit: int) -> list[Candidate]:
        """Return each network under its name; two with the same cut are one candidate."""
        nothing = self._make_empty_genome()
        found: dict[str, Candidate] = {}
        for name, cut in self.networks:
            found.setdefault(compute_cut_digest(cut), Candidate(nothing, cut, compute_cut_digest(cut), name))
        return list(found.values())[:limit]

    def deserialize_genome(self, facts: GenomeFields) -> Genome:
        return self._make_empty_genome()

    def _make_empty_genome(self) -> Genome:
        return Genome(np.zeros(0), np.zeros(self.groups), 0.0)

    def serialize_genome(self, genome: Genome) -> GenomeFields:
        return {}


def make_method_cuts(problem: Problem) -> list[tuple[str, Cut]]:
    """Make the cut of the config's method: its own channels, or the best ones of the equal blend at its widths."""
    name = problem.config.method
    cut = problem.allocations[name].cut
    return [(name, problem.decoder.decode(problem.decoder.space.make_equal_blend()) if cut is None else cut)]


class OneNetworkMethod(Method):
    """Base of methods that end with one network, which `prepare_allocation` finds before the search."""

    def make_optimizer(self, problem: Problem) -> Optimizer:
        """Make the optimizer that proposes this network alone."""
        return FixedCandidates(problem, make_method_cuts(problem))

    def make_baselines(self, problem: Problem) -> list[tuple[str, Genome]]:
        """Return none."""
        return []
