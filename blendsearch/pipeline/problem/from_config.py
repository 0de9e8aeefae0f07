"""Translate the config's widths, genomes and schedules into types of the layers below."""

import math
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from blendsearch.blend.allocation import Widths, make_widths
from blendsearch.blend.allocation_rules import AllocationRule, make_constant_rule, make_global_rule, make_uniform_rule
from blendsearch.blend.cluster_space import ClusterSpace, make_cluster_space
from blendsearch.blend.clustering import Clusters
from blendsearch.blend.group_space import GroupSpace, make_group_space
from blendsearch.blend.network_space import NetworkSpace, make_network_space
from blendsearch.criteria.table import ScoreTable
from blendsearch.errors import ConfigError
from blendsearch.runs.config.method_registry import load_implementation
from blendsearch.runs.config.schema import Config
from blendsearch.runs.config.sections import ScheduleConfig
from blendsearch.structure.trace import Structure
from blendsearch.training.schedule import Schedule

DefaultSpace = ClusterSpace | GroupSpace | NetworkSpace


def make_space(config: Config, table: ScoreTable, clusters: Clusters) -> DefaultSpace:
    """Make the search space of the config's method."""
    space: DefaultSpace = load_implementation(config.method).make_space(config, table, clusters)
    return space


def make_default_space(config: Config, table: ScoreTable, clusters: Clusters) -> DefaultSpace:
    """Make the space that `search.blend` names: one blend for the network, or one per group."""
    search = config.search
    if search.blend == "group":
        return make_group_space(table, clusters)
    if search.blend == "network":
        return make_network_space(table, clusters, search.deviations)
    return make_cluster_space(table, clusters, search.deviations, search.members)


def compute_allowed_widths(config: Config, structure: Structure) -> Widths:
    """Compute the widths that the budget section allows for each group."""
    budget = config.budget
    middles = [math.sqrt(low * high) for low, high in budget.get_spans().values()]
    share = min(middles, default=1.0)
    widths = make_widths(structure.maps.sizes, budget.min_channels, budget.min_keep, budget.round_to, share)
    return replace(widths, blocks=structure.maps.blocks)


def make_fixed_widths(
    config: Config, structure: Structure, allowed: Widths, table: ScoreTable
) -> AllocationRule | None:
    """Make the fixed allocation that needs scores and costs only; measured ones come later (`methods/`)."""
    counts = resolve_user_widths(config.budget.keep, structure, allowed)
    if counts is not None:
        return make_constant_rule(counts)
    if config.allocation == "uniform":
        return make_uniform_rule(allowed)
    if config.allocation == "global":
        return make_global_rule(table, structure.oracle, allowed, config.allocating.criterion)
    return None


def resolve_user_widths(
    keep: float | dict[str, float] | None, structure: Structure, allowed: Widths
) -> NDArray[np.int64] | None:
    """Return the channels kept per group where `keep` sets them. Raises ConfigError for a pattern without a group."""
    if keep is None:
        return None
    patterns = keep if isinstance(keep, dict) else {"*": keep}
    names = [group.name for group in structure.maps.groups]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(f"budget.keep: no group is called {pattern!r}: groups are {', '.join(names)}")
    ratios = [next((patterns[item] for item in patterns if fnmatchcase(name, item)), 1.0) for name in names]
    return allowed.round(np.array(ratios) * allowed.sizes)


def make_schedule(config: ScheduleConfig) -> Schedule:
    """Make the training schedule of a config section; a rate that is still to be found is NaN."""
    fields = config.model_dump(exclude={"distillation", "sub_cuts"})
    return Schedule(**{**fields, "rate": float("nan") if fields["rate"] == "auto" else fields["rate"]})
