"""Named methods: the settings that each stands for, under whatever a config says itself."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blendsearch.runs.config.schema import Config


_ONE_NETWORK: dict[str, Any] = {
    "transform": "none",
    "criteria": {"pool": ["l1"]},
    "allocating": {"criterion": "l1"},
    "search": {"evaluations": 1, "seeds": []},
}

METHODS: dict[str, dict[str, Any]] = {
    "blended": {},
    # controls, at the same budget, recovery and number of evaluations; whole, since `compare` lays them over a config
    "random": {"allocation": "evolved", "search": {"blend": "network", "optimizer": "random"}},
    "legr": {"allocation": "evolved", "transform": "none", "criteria": {"pool": ["l2"]}, "search": {"seeds": []}},
    "torch-pruning": {
        "allocation": "evolved",
        "transform": "none",
        "criteria": {"pool": ["l2"]},
        "search": {"evaluations": 2, "seeds": []},
    },
    # every k x k convolution decomposed after a uniform cut: structure/depthwise.py
    "depthwise": {"allocation": "uniform", "transform": "depthwise", "search": {"seeds": []}},
    # one network each, whose widths are measured, derived or trained; what was filled in: search/<its name>.py
    "sensitivity": _ONE_NETWORK | {"allocation": "sensitivity"},
    "derived": _ONE_NETWORK | {"allocation": "derived", "finals": {"picks": 0}},
    "tailored": _ONE_NETWORK | {"allocation": "tailored", "finals": {"picks": 0}},
    # what the paper states, and what it leaves open: search/cfbs.py
    "cfbs": {
        "allocation": "uniform",
        "criteria": {
            "pool": [
                *("l1", "l2", "fpgm", "fermat", "bn_gamma", "bn_beta"),
                *("taylor_weight", "taylor_weight_l2", "taylor_gamma", "taylor_beta", "apoz", "entropy"),
            ],
            "clustering": "kmeans",
            "clusters": 3,
            "temperature": 1.0,
        },
        "fitness": {
            "fidelity": "tuned",
            "tuning": {"epochs": 3, "rate": 0.001, "weight_decay": 1e-4, "decay": "constant", "nesterov": False},
        },
        "search": {
            "seeds": [],
            "population": 20,
            "evaluations": 1013,  # 50 iterations of 20, 12 single criteria, the equal blend
            "crossover": 0.8,
            "mutation": 0.1,
            "drop": 0.05,
            "drop_ratio": 0.08,
        },
        "finals": {"picks": 5, "tuning": {"epochs": 40, "rate": 0.001, "weight_decay": 1e-4, "nesterov": False}},
    },
}


def apply_method(tree: Any) -> Any:
    """`tree` on top of the settings of the method that it names; as it is where it names none that is known."""
    if not isinstance(tree, Mapping) or tree.get("method") not in METHODS:
        return tree
    return merge_trees(METHODS[tree["method"]], tree)


def merge_trees(base: Mapping[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
    """`above` on top of `below`, section by section."""
    merged = {**base, **update}
    for key in base.keys() & update.keys():
        if isinstance(base[key], Mapping) and isinstance(update[key], Mapping):
            merged[key] = merge_trees(base[key], update[key])
    return merged


PREPARED_METHODS = ("sensitivity", "derived", "tailored")
"""Allocations that take work on the network to find, and the methods of the same names."""


def check_prepared_methods(config: "Config") -> None:
    """Raise ValueError for what these allocations and methods cannot do."""
    asked = [name for name in PREPARED_METHODS if name in (*config.search.seeds, config.allocation, config.method)]
    if asked and not config.budget.get_spans():
        raise ValueError(f"{asked[0]} finds widths for a budget: give one instead of budget.keep")
    if asked and config.transform != "none":
        raise ValueError(f"{asked[0]} knows of no decomposed layers: leave transform out")
    if config.budget.get_spanned_costs() and ("tailored" in asked or config.method in asked):
        raise ValueError("one network is trained towards one budget: give one number, not [least, most]")
    if "tailored" in asked and not set(config.budget.get_spans()) <= {"macs", "params"}:
        raise ValueError("tailored presses on what every channel adds to: leave budget.memory and latency out")
    if config.search.seeds and (config.method not in ("blended", "random") or config.allocation != "evolved"):
        raise ValueError("search.seeds begin a search that evolves its widths: leave them out")
    if config.method in ("derived", "tailored") and config.finals.picks:
        raise ValueError(f"method {config.method} trains its network itself: leave finals.picks at 0")
