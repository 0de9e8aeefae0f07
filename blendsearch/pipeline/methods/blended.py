"""Which optimiser a config asks for, and what it is given to begin with."""

import json

import numpy as np

from blendsearch.blend.genome import Genome
from blendsearch.blend.group_space import GroupSpace
from blendsearch.blend.network_space import NetworkSpace
from blendsearch.pipeline.methods.cfbs import Cfbs
from blendsearch.pipeline.methods.depthwise import AllDepthwise, make_depthwise_baselines
from blendsearch.pipeline.methods.legr import Legr
from blendsearch.pipeline.methods.one_network import FixedCandidates, make_method_cuts
from blendsearch.pipeline.methods.torch_pruning import make_torch_pruning_cuts
from blendsearch.pipeline.optimizers.base import Optimizer
from blendsearch.pipeline.optimizers.baselines import make_baselines
from blendsearch.pipeline.optimizers.cma_es import Cma
from blendsearch.pipeline.optimizers.evolution import Evolution, Operators
from blendsearch.pipeline.optimizers.nsga import Nsga2, Nsga3
from blendsearch.pipeline.optimizers.random_search import RandomSearch
from blendsearch.pipeline.optimizers.surrogate import Surrogate
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.runs.config.method_spec import PREPARED_METHODS
from blendsearch.runs.store import Store


def make_search_optimizer(problem: Problem) -> Optimizer:
    """The optimiser of a run, at its start; its randomness comes from the run's seed alone."""
    config, decoder = problem.config.search, problem.decoder
    space, rng = decoder.space, np.random.default_rng([problem.config.seed, 2])
    rules: Operators
    if problem.config.method == "legr":
        return Legr(decoder, rng)
    if problem.config.method == "torch-pruning":
        return FixedCandidates(problem, make_torch_pruning_cuts(problem))
    if problem.config.method in PREPARED_METHODS:
        return FixedCandidates(problem, make_method_cuts(problem))
    if problem.config.method == "cfbs" and isinstance(space, GroupSpace):
        rules = Cfbs(space, config.mutation, config.drop, config.drop_ratio)
        return Evolution(space, decoder.decode, rules, config.population, config.crossover, rng)
    if problem.config.method == "depthwise":
        return AllDepthwise(space, decoder.decode)
    if config.optimizer == "random":
        return RandomSearch(space, decoder.decode, config.population, rng)
    if isinstance(space, NetworkSpace) and not decoder.has_budget_range and config.optimizer != "nsga2":
        guided = Surrogate if config.optimizer == "surrogate" else Cma
        return guided(space, decoder.decode, config.population, rng, decoder.evolves_widths)
    objectives = 1 + len(decoder.ranged_costs)
    many = objectives > 2
    rules = Nsga3(space, config.mutation, objectives, config.population) if many else Nsga2(space, config.mutation)
    return Evolution(space, decoder.decode, rules, config.population, config.crossover, rng)


def make_seeds(problem: Problem, store: Store, optimizer: Optimizer) -> list[tuple[str, Genome]]:
    """What the first generation begins with: the baselines, then what a fork took over from its parent's population.

    Controls from elsewhere begin with baselines of their own.
    """
    config = problem.config
    if config.method == "depthwise":
        found = make_depthwise_baselines(problem.decoder)
    elif config.method in ("legr", "torch-pruning", *PREPARED_METHODS):
        found = []
    else:
        measured = [problem.allocations[name].rule for name in config.search.seeds]
        found = make_baselines(problem.decoder, config.search.anchors, measured, config.allocating.criterion)
    begun = [item for item in store.read_inherited() if item.begins]
    return [*found, *((item.origin, optimizer.deserialize_genome(json.loads(item.genome))) for item in begun)]
