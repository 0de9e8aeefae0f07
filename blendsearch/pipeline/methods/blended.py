"""Which optimiser a config asks for, and what it is given to begin with."""

import json

import numpy as np

from blendsearch.blend.genome import Genome
from blendsearch.blend.group_space import GroupSpace
from blendsearch.blend.network_space import NetworkSpace
from blendsearch.pipeline.methods.cfbs import Cfbs
from blendsearch.pipeline.methods.depthwise import AllDepthwise, all_depthwise
from blendsearch.pipeline.methods.legr import Legr
from blendsearch.pipeline.methods.one_network import Brought, own_network
from blendsearch.pipeline.methods.torch_pruning import peers
from blendsearch.pipeline.optimizers.base import Optimiser
from blendsearch.pipeline.optimizers.baselines import baselines
from blendsearch.pipeline.optimizers.cma_es import Cma
from blendsearch.pipeline.optimizers.evolution import Evolution, Rules
from blendsearch.pipeline.optimizers.nsga import Nsga2, Nsga3
from blendsearch.pipeline.optimizers.random_search import RandomSearch
from blendsearch.pipeline.optimizers.surrogate import Surrogate
from blendsearch.pipeline.problem.problem import Setting
from blendsearch.runs.config.method_spec import MEASURED
from blendsearch.runs.store import Store


def optimiser_of(setting: Setting) -> Optimiser:
    """The optimiser of a run, at its start; its randomness comes from the run's seed alone."""
    config, decoder = setting.config.search, setting.decoder
    space, rng = decoder.space, np.random.default_rng([setting.config.seed, 2])
    rules: Rules
    if setting.config.method == "legr":
        return Legr(decoder, rng)
    if setting.config.method == "torch-pruning":
        return Brought(setting, peers(setting))
    if setting.config.method in MEASURED:
        return Brought(setting, own_network(setting))
    if setting.config.method == "cfbs" and isinstance(space, GroupSpace):
        rules = Cfbs(space, config.mutation, config.drop, config.drop_ratio)
        return Evolution(space, decoder.cut, rules, config.population, config.crossover, rng)
    if setting.config.method == "depthwise":
        return AllDepthwise(space, decoder.cut)
    if config.optimiser == "random":
        return RandomSearch(space, decoder.cut, config.population, rng)
    if isinstance(space, NetworkSpace) and not decoder.spans and config.optimiser != "nsga2":
        guided = Surrogate if config.optimiser == "surrogate" else Cma
        return guided(space, decoder.cut, config.population, rng, decoder.evolves_widths)
    objectives = 1 + len(decoder.spanned)
    many = objectives > 2
    rules = Nsga3(space, config.mutation, objectives, config.population) if many else Nsga2(space, config.mutation)
    return Evolution(space, decoder.cut, rules, config.population, config.crossover, rng)


def seeds_of(setting: Setting, store: Store, optimiser: Optimiser) -> list[tuple[str, Genome]]:
    """What the first generation begins with: the baselines, then what a fork took over from its parent's population.

    Controls from elsewhere begin with baselines of their own.
    """
    config = setting.config
    if config.method == "depthwise":
        found = all_depthwise(setting.decoder)
    elif config.method in ("legr", "torch-pruning", *MEASURED):
        found = []
    else:
        measured = [setting.measured[name].fixed for name in config.search.seeds]
        found = baselines(setting.decoder, config.search.anchors, measured, config.allocating.criterion)
    begun = [item for item in store.inherited() if item.begins]
    return [*found, *((item.origin, optimiser.of_described(json.loads(item.genome))) for item in begun)]
