"""What a config says of widths, genomes and schedules, in the words of the floors below."""

from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from blendsearch.blend.allocation import Widths, widths
from blendsearch.blend.allocation_rules import Fixed, given, ranked, uniform
from blendsearch.blend.clustering import Clusters
from blendsearch.blend.group_space import GroupSpace, space_of
from blendsearch.blend.network_space import NetworkSpace, network_space_of
from blendsearch.criteria.table import ScoreTable
from blendsearch.errors import ConfigError
from blendsearch.fitness.training import Schedule
from blendsearch.runs.config.schema import Config
from blendsearch.runs.config.sections import ScheduleConfig
from blendsearch.structure.trace import Structure


def space_for(config: Config, table: ScoreTable, clusters: Clusters) -> GroupSpace | NetworkSpace:
    """The genomes that the config's method searches among."""
    if config.method == "cfbs":
        return space_of(table, clusters, means=False)
    if config.search.blend == "group":
        return space_of(table, clusters)
    return network_space_of(table, clusters, deviations=config.search.deviations)


def allowed_widths(config: Config, structure: Structure) -> Widths:
    """The widths that the budget lets each group have."""
    budget = config.budget
    return widths(structure.maps.sizes, budget.min_channels, budget.min_keep, budget.round_to)


def fixed_widths(config: Config, structure: Structure, allowed: Widths, table: ScoreTable) -> Fixed | None:
    """The allocation that needs nothing but scores and costs; those that are measured come later (search.measured)."""
    counts = given_widths(config.budget.keep, structure, allowed)
    if counts is not None:
        return given(counts)
    if config.allocation == "uniform":
        return uniform(allowed)
    if config.allocation == "global":
        return ranked(table, structure.oracle, allowed, config.allocating.criterion)
    return None


def given_widths(
    keep: float | dict[str, float] | None, structure: Structure, allowed: Widths
) -> NDArray[np.int64] | None:
    """The channels kept per group where the config gives them. Raises ConfigError for a pattern that names no group."""
    if keep is None:
        return None
    patterns = keep if isinstance(keep, dict) else {"*": keep}
    names = [group.name for group in structure.maps.groups]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(f"budget.keep: no group is called {pattern!r}: groups are {', '.join(names)}")
    ratios = [next((patterns[item] for item in patterns if fnmatchcase(name, item)), 1.0) for name in names]
    return allowed.rounded(np.array(ratios) * allowed.sizes)


def schedule_of(config: ScheduleConfig) -> Schedule:
    """What `train` follows."""
    return Schedule(**config.model_dump())
