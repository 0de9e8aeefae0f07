"""Evolve a blend of criteria and the widths of all layers: the method of a config that names none."""

import numpy as np

from blendsearch.blend.cluster_space import ClusterSpace
from blendsearch.blend.network_space import NetworkSpace
from blendsearch.pipeline.methods.method import Method
from blendsearch.pipeline.optimizers.base import Optimizer
from blendsearch.pipeline.optimizers.cma_es import Cma
from blendsearch.pipeline.optimizers.evolution import Evolution, Operators
from blendsearch.pipeline.optimizers.nsga import Nsga2, Nsga3
from blendsearch.pipeline.optimizers.random_search import RandomSearch
from blendsearch.pipeline.problem.problem import Problem


class Blended(Method):
    """The optimizer is the one that `search.optimizer` names.

    ``auto`` is CMA-ES for one budget and one blend for the whole network, and NSGA-II otherwise; NSGA-III takes the
    place of NSGA-II for three or more objectives.
    """

    def make_optimizer(self, problem: Problem) -> Optimizer:
        """Make the optimizer that the config asks for."""
        config, decoder = problem.config.search, problem.decoder
        space, rng = decoder.space, np.random.default_rng([problem.config.seed, 2])
        if config.optimizer == "random":
            return RandomSearch(space, decoder.decode, config.population, rng)
        at_one_budget = not decoder.has_budget_range and config.optimizer != "nsga2"
        if at_one_budget and isinstance(space, ClusterSpace | NetworkSpace):
            return Cma(space, decoder.decode, config.population, rng, decoder.evolves_widths)
        objectives = 1 + len(decoder.ranged_costs)
        operators: Operators
        if objectives > 2:
            operators = Nsga3(space, config.mutation, objectives, config.population)
        else:
            operators = Nsga2(space, config.mutation)
        return Evolution(space, decoder.decode, operators, config.population, config.crossover, rng)
