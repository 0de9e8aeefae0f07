"""Search for physically smaller CNNs: blended pruning criteria and per-layer widths under an exact budget.

import blendsearch as bs

run = bs.search(model, data, budget=bs.macs(0.5))
run.front()
small = run.best().module()
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blendsearch.python.budgets import Budget, keep, latency, macs, memory, params
    from blendsearch.python.results import Front, Network, SearchRun
    from blendsearch.python.search import fork, open, resume, search
    from blendsearch.results.export.loader import load
    from blendsearch.training.hooks import StepInfo, TrainContext
    from blendsearch.training.schedule import Schedule
    from blendsearch.version import __version__ as __version__

__all__ = [
    "Budget",
    "Front",
    "Network",
    "Schedule",
    "SearchRun",
    "StepInfo",
    "TrainContext",
    "fork",
    "keep",
    "latency",
    "load",
    "macs",
    "memory",
    "open",
    "params",
    "resume",
    "search",
]

_MODULES = {
    "load": "results.export.loader",
    "Schedule": "training.schedule",
    **dict.fromkeys(("StepInfo", "TrainContext"), "training.hooks"),
    **dict.fromkeys(("Budget", "keep", "latency", "macs", "memory", "params"), "python.budgets"),
    **dict.fromkeys(("Front", "Network", "SearchRun"), "python.results"),
    **dict.fromkeys(("fork", "open", "resume", "search"), "python.search"),
}


def __getattr__(name: str) -> Any:
    """Import a public name on first access: torch takes seconds, and `blendsearch --help` does not need it."""
    if name == "__version__":
        return import_module("blendsearch.version").__version__
    if name in _MODULES:
        return getattr(import_module(f"blendsearch.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
