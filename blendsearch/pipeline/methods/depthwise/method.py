"""Method ``depthwise``: all layers decomposed, with uniform widths, as in Luo et al. 2021 (structure/depthwise.py).

The paper leaves open which channels a cut keeps. Every single criterion of the pool and the equal blend are evaluated,
and the best by validation is the method's network.
"""

from collections.abc import Callable, Sequence

import numpy as np

from blendsearch.blend.decoder import Decoder
from blendsearch.blend.genome import BASELINE_GENE, Genome, GenomeFields, Space
from blendsearch.pipeline.methods.method import Method
from blendsearch.pipeline.optimizers.base import Candidate, Optimizer
from blendsearch.pipeline.optimizers.baselines import ALL_DEPTHWISE
from blendsearch.pipeline.optimizers.evolution import merge_duplicate_seeds
from blendsearch.pipeline.optimizers.one_shot import OneShot
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.structure.groups import Cut


class AllDepthwise(OneShot):
    """The optimizer: proposes its seeds once."""

    def __init__(self, space: Space, decode: Callable[[Genome], Cut]) -> None:
        self.space, self.decode = space, decode

    def ask_first(self, seeds: Sequence[tuple[str, Genome]], limit: int) -> list[Candidate]:
        return list(merge_duplicate_seeds(seeds, self.decode, limit).values())

    def deserialize_genome(self, facts: GenomeFields) -> Genome:
        return self.space.parse_genome(facts)

    def serialize_genome(self, genome: Genome) -> GenomeFields:
        return self.space.describe(genome)


def make_depthwise_baselines(decoder: Decoder) -> list[tuple[str, Genome]]:
    """Make every single criterion and the equal blend, all layers decomposed, in the decoder's allocation."""
    space = decoder.space
    allocation = "uniform" if decoder.allocation_rule is None else decoder.allocation_rule.name
    genomes = [(name, space.make_single_criterion(row)) for row, name in enumerate(space.criteria)]
    transform = np.full(space.layers, BASELINE_GENE)
    return [
        (f"{name} {allocation}, {ALL_DEPTHWISE}", genome._replace(transform=transform))
        for name, genome in [*genomes, ("equal blend", space.make_equal_blend())]
    ]


class Depthwise(Method):
    """A fixed set of networks: every criterion and the equal blend, with all layers decomposed."""

    def make_optimizer(self, problem: Problem) -> Optimizer:
        """Make the optimizer that proposes these networks alone."""
        return AllDepthwise(problem.decoder.space, problem.decoder.decode)

    def make_baselines(self, problem: Problem) -> list[tuple[str, Genome]]:
        """Make the genomes of these networks."""
        return make_depthwise_baselines(problem.decoder)
