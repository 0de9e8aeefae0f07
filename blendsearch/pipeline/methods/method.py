"""The interface between the pipeline and a search method, and the functions that the pipeline calls."""

from collections.abc import Sequence

from blendsearch.blend.allocation_rules import PreparedAllocation
from blendsearch.blend.clustering import Clusters
from blendsearch.blend.genome import Genome, Space
from blendsearch.criteria.table import ScoreTable
from blendsearch.errors import ConfigError
from blendsearch.pipeline.optimizers.base import Optimizer, parse_stored_genome
from blendsearch.pipeline.optimizers.baselines import make_baselines
from blendsearch.pipeline.problem.from_config import make_default_space
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.pipeline.problem.session import SearchSession
from blendsearch.runs.config.method_registry import load_implementation
from blendsearch.runs.config.schema import Config
from blendsearch.runs.records import Evaluation
from blendsearch.runs.store import Store


class Method:
    """Base of all methods. A subclass implements `make_optimizer` and overrides what else differs.

    An instance holds no state: one is shared by all searches of a process. Everything must follow from the problem and
    the run's seed alone, so that a resumed search continues with the same candidates.
    """

    def make_space(self, config: Config, table: ScoreTable, clusters: Clusters) -> Space:
        """Make the space of genomes that the method searches."""
        return make_default_space(config, table, clusters)

    def make_optimizer(self, problem: Problem) -> Optimizer:
        """Make the optimizer in its initial state; its randomness comes from the run's seed alone."""
        raise NotImplementedError

    def make_baselines(self, problem: Problem) -> list[tuple[str, Genome]]:
        """Make the named genomes that the first generation contains: every criterion and the equal blend."""
        config = problem.config
        rules = [problem.allocations[name].rule for name in config.search.seeds]
        return make_baselines(problem.decoder, config.search.anchors, rules, config.allocating.criterion)

    def prepare_allocation(self, session: SearchSession) -> PreparedAllocation | None:
        """Find the method's widths before the search; None for a method that prepares none.

        It is called again when a search resumes, and then reads finished work from the session's run and store.
        """
        return None

    def compute_objectives(self, problem: Problem, row: Evaluation) -> tuple[float, ...]:
        """Compute what is minimized: loss and error at one budget, loss and costs where budgets are ranges."""
        if row.loss is None or row.error is None:
            raise ValueError(f"network {row.id} was not evaluated: {row.failure}")
        return row.loss, *(problem.compute_costs(row) or (row.error,))

    def select_finals(self, problem: Problem, rows: Sequence[Evaluation]) -> list[Evaluation] | None:
        """Select the networks of the long fine-tune among all evaluated `rows`; None for the best and the baselines."""
        return None

    def is_eligible_final(self, row: Evaluation) -> bool:
        """Return whether `row` may be among the `finals.picks`; the best baselines are fine-tuned in any case."""
        return True


def load_method(name: str) -> Method:
    """Load the implementation of the method `name`. Raises ConfigError where it cannot be imported."""
    found = load_implementation(name)
    if not isinstance(found, Method):
        raise ConfigError(f"method {name} is a {type(found).__name__}: expected a subclass of Method")
    return found


def make_search_optimizer(problem: Problem) -> Optimizer:
    """Make the optimizer of a run, in its initial state."""
    return load_method(problem.config.method).make_optimizer(problem)


def make_seeds(problem: Problem, store: Store, optimizer: Optimizer) -> list[tuple[str, Genome]]:
    """Make the named genomes of the first generation: the baselines, then the population that a fork inherited."""
    begun = [item for item in store.read_inherited() if item.begins]
    return [
        *load_method(problem.config.method).make_baselines(problem),
        *((item.origin, parse_stored_genome(optimizer, item.genome)) for item in begun),
    ]
