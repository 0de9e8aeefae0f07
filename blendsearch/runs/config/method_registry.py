"""The registry of search methods.

Methods come from three sources: the package's own ones, installed packages that declare the entry point group
``blendsearch.methods``, and calls of `register_method`. An entry point names a `MethodSpec`, or a function that
registers some. This layer never imports a method's implementation: `load_implementation` does so for the search.
"""

import difflib
import functools
import importlib
import importlib.metadata
import re
import warnings
from collections.abc import Mapping
from typing import Any

from blendsearch.errors import ConfigError, format_reason
from blendsearch.runs.config.method_spec import MethodSpec, merge_trees

ENTRY_POINTS = "blendsearch.methods"
"""The entry point group in which packages declare their methods."""

BUILT_IN = importlib.metadata.EntryPoint("built-in", "blendsearch.pipeline.methods:register_built_in", ENTRY_POINTS)
"""The package's own entry point, as pyproject.toml declares it.

It is repeated here because a source checkout may have stale metadata or none. It is the only place of this layer that
names a higher one, and does so by a string: the scan of the folder with the methods belongs to that folder.
"""

PLAIN_ALLOCATIONS = ("evolved", "uniform", "global")
"""Values of `allocation` that belong to no method."""

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,47}")
"""Allowed names of methods: the names of control runs begin with them."""

_specs: dict[str, MethodSpec] = {}
_loaded_entries: set[str] = set()


def register_method(spec: MethodSpec) -> MethodSpec:
    """Register a method and return its spec. Raises ConfigError for a name that is taken or not allowed."""
    if not NAME.fullmatch(spec.name) or spec.name in PLAIN_ALLOCATIONS:
        raise ConfigError(f"{spec.name!r} cannot name a method: expected lower-case letters, digits and hyphens")
    known = _specs.get(spec.name)
    if known is not None and known.implementation != spec.implementation:
        raise ConfigError(f"two methods are called {spec.name!r}: {known.implementation} and {spec.implementation}")
    _specs[spec.name] = spec
    return spec


def unregister_method(name: str) -> None:
    """Remove a method from the registry, as tests and notebooks do before they register it anew."""
    _specs.pop(name, None)
    load_implementation.cache_clear()


@functools.cache
def load_methods() -> None:
    """Register the built-in methods and those of installed packages, once per process.

    An entry point that fails is skipped with a warning, so that a broken package does not stop a search.
    """
    _load_entry(BUILT_IN)
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            _load_entry(entry)
        except Exception as error:  # code of another package may fail in any way
            warnings.warn(
                f"methods of the entry point {entry.name!r} ({entry.value}) are left out: {format_reason(error)}",
                stacklevel=2,
            )


def list_methods() -> tuple[MethodSpec, ...]:
    """Return every registered method, by name."""
    load_methods()
    return tuple(_specs[name] for name in sorted(_specs))


def get_method(name: str) -> MethodSpec:
    """Return the method `name`. Raises ConfigError for an unknown name."""
    load_methods()
    if name not in _specs:
        near = difflib.get_close_matches(name, _specs, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"no method is called {name!r}: {hint}known are {', '.join(sorted(_specs))}")
    return _specs[name]


def list_method_names() -> tuple[str, ...]:
    """Return the values that `method` takes."""
    return tuple(spec.name for spec in list_methods())


def list_seed_names() -> tuple[str, ...]:
    """Return the names of methods that find widths for other searches: the values that `search.seeds` takes."""
    return tuple(spec.name for spec in list_methods() if spec.traits.seeds_others)


def list_allocation_names() -> tuple[str, ...]:
    """Return the values that `allocation` takes."""
    return (*PLAIN_ALLOCATIONS, *list_seed_names())


def list_control_names(*, optional: bool) -> tuple[str, ...]:
    """Return the names of methods that `compare` runs as controls: the default ones, or the `optional` ones."""
    wanted = "optional" if optional else "default"
    return tuple(spec.name for spec in list_methods() if spec.traits.control == wanted)


def list_method_origins() -> frozenset[str]:
    """Return the origins that methods give to networks of their own."""
    return frozenset(origin for spec in list_methods() for origin in spec.origins)


@functools.cache
def load_implementation(name: str) -> Any:
    """Import and create the implementation of the method `name`: a ``blendsearch.pipeline.methods.method.Method``.

    Raises ConfigError where it cannot be imported.
    """
    spec = get_method(name)
    module, _, attribute = spec.implementation.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"method {name} cannot be loaded from {spec.implementation}: {error}") from error


def apply_method(tree: Any) -> Any:
    """Return `tree` on top of the defaults of the method that it names; unchanged where the name is not known."""
    load_methods()
    name = tree.get("method") if isinstance(tree, Mapping) else None
    if not isinstance(name, str) or name not in _specs:
        return tree
    return merge_trees(_specs[name].defaults, tree)


def _load_entry(entry: importlib.metadata.EntryPoint) -> None:
    if entry.value in _loaded_entries:
        return
    _loaded_entries.add(entry.value)
    found = entry.load()
    if isinstance(found, MethodSpec):
        register_method(found)
    elif callable(found):
        found()
