"""Search for really smaller CNNs: blended pruning criteria and per-layer widths under an exact budget.

import blendsearch as bs

run = bs.search(model, data, budget=bs.macs(0.5))
run.front()
small = run.best().module()
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blendsearch.inspect.export import load
    from blendsearch.python.budgets import Budget, keep, latency, macs, memory, params
    from blendsearch.python.found import Front, Network, SearchRun
    from blendsearch.python.searching import fork, open, resume, search

__all__ = [
    "Budget",
    "Front",
    "Network",
    "SearchRun",
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

_PLACES = {
    "load": "inspect.export",
    **dict.fromkeys(("Budget", "keep", "latency", "macs", "memory", "params"), "python.budgets"),
    **dict.fromkeys(("Front", "Network", "SearchRun"), "python.found"),
    **dict.fromkeys(("fork", "open", "resume"), "python.searching"),
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: torch takes seconds, and `blendsearch --help` needs none of it."""
    from importlib import import_module

    if name == "search":
        return import_module("blendsearch.search")
    if name in _PLACES:
        return getattr(import_module(f"blendsearch.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)


class _Search(ModuleType):
    """The floor called search, which can also be called: `blendsearch.search(...)` is `python.searching.search`."""

    def __call__(self, *words: Any, **named: Any) -> Any:
        from blendsearch.python.searching import search

        return search(*words, **named)

    @property
    def __signature__(self) -> Any:
        from inspect import signature

        from blendsearch.python.searching import search

        return signature(search)


class _Package(ModuleType):
    """This package: Python sets a submodule as its attribute when it is first imported, under a function's name too."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "search" and isinstance(value, ModuleType):
            value.__class__ = _Search
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
