"""Which optimiser a config asks for."""

import numpy as np

from blendsearch.search.cfbs import Cfbs
from blendsearch.search.evolution import Evolution, Rules
from blendsearch.search.nsga2 import Nsga2
from blendsearch.search.optimiser import Optimiser
from blendsearch.search.setting import Setting


def optimiser_of(setting: Setting) -> Optimiser:
    """The optimiser of a run, at its start; its randomness comes from the run's seed alone."""
    config, space = setting.config.search, setting.decoder.space
    rules: Rules
    if setting.config.method == "cfbs":
        rules = Cfbs(space, config.mutation, config.drop, config.drop_ratio)
    else:
        rules = Nsga2(space, config.mutation)
    rng = np.random.default_rng([setting.config.seed, 2])
    return Evolution(space, setting.decoder.cut, rules, config.population, config.crossover, rng)
