"""Registry of criteria; a criterion is one decorated function.

The pool has three sources: the modules bundled with blendsearch, modules named in the config (`load_criteria`), and
installed packages that announce modules in the entry-point group ``blendsearch.criteria``.
"""

import difflib
import importlib
import importlib.metadata
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from blendsearch.criteria.needs import NEEDS, Need
from blendsearch.errors import ConfigError, format_error
from blendsearch.user_code import import_user_module

if TYPE_CHECKING:
    from torch import Tensor

    from blendsearch.criteria.view import GroupView

    Score = Callable[[GroupView], Tensor | None]

ENTRY_POINTS = "blendsearch.criteria"
"""Entry-point group in which other packages announce modules that register criteria."""

POOL_MODULES = (
    "norm",
    "spectral",
    "distance",
    "batch_norm",
    "activation",
    "reconstruction",
    "gradient",
    "curvature",
    "control",
)
"""Modules of the bundled pool, in the order in which their criteria are listed."""

Family = Literal["norm", "distance", "batch-norm", "activation", "gradient", "curvature", "control"]
Cost = Literal["free", "weights", "probe", "sub-sample"]

CRITERIA: "dict[str, Criterion]" = {}


@dataclass(frozen=True)
class Criterion:
    """A named score of the channels of a group; high = keep.

    Attributes
    ----------
    family: criteria of one family use the same kind of information.
    needs: quantities of the probe that it reads; empty for criteria of weights only.
    cost: ``free`` (reads stored vectors), ``weights`` (computes on the weights), ``probe`` (part of the probe's pass
        over all images), ``sub-sample`` (costly per image, so the probe computes it on a sub-sample).
    source: publication of the criterion.
    score: maps a view of one group to its scores, (C,), or None if the criterion does not apply.
    """

    name: str
    family: Family
    needs: frozenset[Need]
    cost: Cost
    source: str
    score: "Score"

    @property
    def formula(self) -> str:
        """First paragraph of the function's docstring."""
        return " ".join((inspect.getdoc(self.score) or "").split("\n\n")[0].split())


def criterion(
    name: str, *, family: Family, needs: Iterable[Need] = (), cost: Cost = "weights", source: str
) -> "Callable[[Score], Score]":
    """Register the decorated function as the criterion `name`.

    The function takes a GroupView and returns the scores of the group's channels, (C,), high = keep, or None if it does
    not apply. Raises ConfigError if another function has this name, and for a need that the probe does not know.
    """

    def register(score: "Score") -> "Score":
        unknown = sorted(set(needs) - set(NEEDS))
        if unknown:
            raise ConfigError(f"criterion {name!r} needs {unknown[0]!r}: the probe computes {', '.join(NEEDS)}")
        known = CRITERIA.get(name)
        if known is not None and (known.score.__module__, known.score.__qualname__) != (
            score.__module__,
            score.__qualname__,
        ):
            raise ConfigError(f"two criteria are called {name!r}: {known.score.__module__} and {score.__module__}")
        CRITERIA[name] = Criterion(name, family, frozenset(needs), cost, source, score)
        return score

    return register


def select_criteria(names: Iterable[str] = ()) -> tuple[Criterion, ...]:
    """Return the named criteria in this order; without names, all except controls.

    Raises ConfigError for a name that is not registered or appears twice.
    """
    load_pool()
    wanted = list(names) or [item.name for item in CRITERIA.values() if item.family != "control"]
    for name in wanted:
        if name not in CRITERIA:
            near = difflib.get_close_matches(name, CRITERIA, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(f"no criterion is called {name!r}: {hint}known are {', '.join(CRITERIA)}")
        if wanted.count(name) > 1:
            raise ConfigError(f"criterion {name!r} is named twice: name each criterion once")
    return tuple(CRITERIA[name] for name in wanted)


def load_pool() -> None:
    """Register the bundled pool, and criteria of installed packages.

    A broken entry point is skipped with a warning: an installed package must not stop a search.
    """
    for module in POOL_MODULES:
        importlib.import_module(f"blendsearch.criteria.{module}")
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if (entry.name, entry.value) in _loaded_entries:
            continue
        _loaded_entries.add((entry.name, entry.value))
        try:
            with _restore_on_error():
                entry.load()
        except Exception as error:  # other packages' modules may raise anything
            warnings.warn(
                f"criteria of the entry point {entry.name!r} ({entry.value}) are left out: {format_error(error)}",
                stacklevel=2,
            )


def load_criteria(modules: Sequence[str]) -> None:
    """Import user-defined `modules` (dotted names), whose decorated functions then belong to the pool.

    Raises ConfigError if a module cannot be imported; none of its criteria is registered then.
    """
    load_pool()
    for module in modules:
        try:
            with _restore_on_error():
                import_user_module(module)
        except Exception as error:  # user-defined modules may raise anything
            raise ConfigError(
                f"criteria module {module!r} could not be imported: {format_error(error)}; expected a module on "
                "Python's path that registers criteria with @criterion"
            ) from error


_loaded_entries: set[tuple[str, str]] = set()


@contextmanager
def _restore_on_error() -> Iterator[None]:
    """Restore the pool if an exception leaves this context."""
    before = dict(CRITERIA)
    try:
        yield
    except BaseException:
        CRITERIA.clear()
        CRITERIA.update(before)
        raise
