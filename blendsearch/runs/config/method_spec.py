"""The description of a search method: its name, its traits, its config defaults, and the class that implements it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from blendsearch.runs.config.sections import Section

Costs = frozenset[str]
"""Names of budgeted costs: ``macs``, ``params``, ``memory``, ``latency``."""


def accept_config(config: Any) -> None:
    """Accept every config: the check of a method without cross-field rules."""


@dataclass(frozen=True, kw_only=True)
class Traits:
    """Facts about a method that other parts of the program read instead of its name.

    Attributes
    ----------
    one_network: the method ends with one network; used as `method`, it takes one budget and no range.
    fixed_networks: the method evaluates a fixed set of networks in the first generation and proposes no others.
    trains_itself: the method trains its network; the stored weights are the result, and `finals.picks` must be 0.
    spans: budgets may be ranges, [least, most], wherever a config names the method.
    transform: whether the method works with decomposed layers: ``never``, ``optional`` or ``required``.
    costs: the costs that the method can budget; None for all.
    fixed_widths: `budget.keep` may give the widths instead of a budget.
    population: a fork can begin with the networks of a run of this method.
    seeds_others: the method finds widths for a budget, so its name may stand in `allocation` and `search.seeds`.
    accepts_seeds: `search.seeds` may name such methods beside this one.
    ladder: networks of the search are trained on the rungs of `ladder` where finals are trained.
    control: ``default`` for controls that `compare` runs unless others are named, ``optional`` for those that it runs
        where they are named, ``no`` for methods that are no controls.
    """

    one_network: bool = False
    fixed_networks: bool = False
    trains_itself: bool = False
    spans: bool = True
    transform: Literal["never", "optional", "required"] = "optional"
    costs: Costs | None = None
    fixed_widths: bool = True
    population: bool = True
    seeds_others: bool = False
    accepts_seeds: bool = False
    ladder: bool = False
    control: Literal["default", "optional", "no"] = "no"

    @property
    def is_control(self) -> bool:
        """Return whether `compare` can run the method as a control."""
        return self.control != "no"


@dataclass(frozen=True, kw_only=True)
class MethodSpec:
    """A search method as configs and readers of runs see it. Importing a spec must not import torch.

    Attributes
    ----------
    name: the value of `method` in a config.
    summary: one sentence.
    implementation: ``module:Class``, a subclass of ``blendsearch.pipeline.methods.method.Method``; imported by the
        search only.
    defaults: values of config fields that the method sets where the config does not.
    options: the method's own section of the config, or None; `section` is its name there (default: the method's name).
    check: raises ValueError for fields that contradict each other. It is called for every config that names the method
        in `method`, `allocation` or `search.seeds`.
    origins: origins of networks that the method evaluates under names of its own, apart from the baselines.
    """

    name: str
    summary: str
    implementation: str
    traits: Traits = Traits()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    options: type[Section] | None = None
    section: str = ""
    check: Callable[[Any], None] = accept_config
    origins: tuple[str, ...] = ()

    @property
    def section_name(self) -> str:
        """Return the name of the section that holds the method's options."""
        return self.section or self.name.replace("-", "_")


def merge_trees(base: Mapping[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `update` on top, section by section."""
    merged = {**base, **update}
    for key in base.keys() & update.keys():
        if isinstance(base[key], Mapping) and isinstance(update[key], Mapping):
            merged[key] = merge_trees(base[key], update[key])
    return merged
