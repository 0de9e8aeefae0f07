"""What a config lets a search choose from: the widths of each group, and the space of genomes."""

from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from blendsearch.blend.allocation import Widths, widths
from blendsearch.blend.clustering import Clusters
from blendsearch.blend.groupwise import GroupSpace, space_of
from blendsearch.blend.networkwide import NetworkSpace, network_space_of
from blendsearch.criteria.table import ScoreTable
from blendsearch.errors import ConfigError
from blendsearch.runs.config import Config
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
