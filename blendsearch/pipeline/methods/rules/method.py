"""The known rules, each in a uniform and in a global allocation, at several compressions.

The long fine-tune of the best rules of each compression shows where recovery begins to fail: below that compression any
rule will do, above it the choice of channels and widths matters.
"""

from collections.abc import Callable, Sequence

from blendsearch.blend.genome import Genome, GenomeFields, Space
from blendsearch.pipeline.methods.method import Method
from blendsearch.pipeline.methods.rules.spec import RulesConfig
from blendsearch.pipeline.optimizers.base import Candidate, Optimizer
from blendsearch.pipeline.optimizers.baselines import make_baselines
from blendsearch.pipeline.optimizers.evolution import merge_duplicate_seeds
from blendsearch.pipeline.optimizers.one_shot import OneShot
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.runs.compression import group_by_factor
from blendsearch.runs.records import Evaluation
from blendsearch.structure.groups import Cut, unpack_cut


class KnownRules(OneShot):
    """The optimizer: proposes the seeds, and nothing else."""

    def __init__(self, space: Space, decode: Callable[[Genome], Cut]) -> None:
        self.space, self.decode = space, decode

    def ask_first(self, seeds: Sequence[tuple[str, Genome]], limit: int) -> list[Candidate]:
        """Return the seeds; those with the same cut are one candidate with the names of all."""
        return list(merge_duplicate_seeds(seeds, self.decode, limit).values())

    def serialize_genome(self, genome: Genome) -> GenomeFields:
        return self.space.describe(genome)

    def deserialize_genome(self, facts: GenomeFields) -> Genome:
        return self.space.parse_genome(facts)


class Rules(Method):
    """Method ``rules``; `spec.RulesConfig` are its options."""

    def make_optimizer(self, problem: Problem) -> Optimizer:
        """Make the optimizer that proposes the rules."""
        return KnownRules(problem.decoder.space, problem.decoder.decode)

    def make_baselines(self, problem: Problem) -> list[tuple[str, Genome]]:
        """Make every criterion and the equal blend, uniform and global, at every factor."""
        config = problem.config
        rules = [problem.allocations[name].rule for name in config.search.seeds]
        ((low, high),) = config.budget.get_spans().values()
        ratios = [1 / factor for factor in config.get_options(RulesConfig).factors]
        targets = [min(1.0, max(0.0, (ratio - low) / (high - low))) if high > low else 0.0 for ratio in ratios]
        return make_baselines(problem.decoder, targets, rules, config.allocating.criterion)

    def select_finals(self, problem: Problem, rows: Sequence[Evaluation]) -> list[Evaluation]:
        """Select the best networks of each factor by loss."""
        options = problem.config.get_options(RulesConfig)
        (cost,) = problem.config.budget.get_spans()

        def compute_ratio(row: Evaluation) -> float:
            counts = problem.structure.maps.count_kept(unpack_cut(row.cut, problem.structure.maps.channels))
            return float(problem.structure.oracle.compute_ratio(cost, counts))

        groups = group_by_factor(rows, options.factors, compute_ratio)
        return [row for group in groups.values() for row in group[: options.trained]]
