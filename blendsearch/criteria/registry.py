"""The open pool of criteria: a criterion is one decorated function."""

import difflib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from blendsearch.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from blendsearch.criteria.view import GroupView

    Score = Callable[[GroupView], Tensor | None]

Family = Literal["norm", "distance", "batch-norm", "activation", "gradient", "curvature", "control"]
Need = Literal["activations", "gradients"]
Cost = Literal["free", "weights", "probe"]

CRITERIA: "dict[str, Criterion]" = {}


@dataclass(frozen=True)
class Criterion:
    """A named way to score the channels of a group; high = keep.

    Attributes
    ----------
    family: criteria of one family look at the same thing.
    needs: what of the probe it reads; empty for criteria that look at weights only.
    cost: ``free`` (a look at stored vectors), ``weights`` (work on the weights), ``probe`` (part of the probe's pass).
    source: the publication it is from.
    score: from a view of one group to its scores, shape (C,), or None where the group has nothing it could look at.
    """

    name: str
    family: Family
    needs: frozenset[Need]
    cost: Cost
    source: str
    score: "Score"

    @property
    def formula(self) -> str:
        """The first paragraph of the function's docstring."""
        return " ".join((inspect.getdoc(self.score) or "").split("\n\n")[0].split())


def criterion(
    name: str, *, family: Family, needs: Iterable[Need] = (), cost: Cost = "weights", source: str
) -> "Callable[[Score], Score]":
    """Register the decorated function as the criterion `name`.

    The function takes a GroupView and returns the scores of the group's channels, shape (C,), high = keep, or None where
    it does not apply. Raises ConfigError when the name is taken by another function.
    """

    def register(score: "Score") -> "Score":
        known = CRITERIA.get(name)
        if known is not None and (known.score.__module__, known.score.__qualname__) != (
            score.__module__,
            score.__qualname__,
        ):
            raise ConfigError(f"two criteria are called {name!r}: {known.score.__module__} and {score.__module__}")
        CRITERIA[name] = Criterion(name, family, frozenset(needs), cost, source, score)
        return score

    return register


def pool(names: Iterable[str] = ()) -> tuple[Criterion, ...]:
    """The named criteria in the order given; without names, all but the controls.

    Raises ConfigError for a name that is not registered, or one given twice.
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
    """Import the modules that register the pool that comes with blendsearch."""
    from blendsearch.criteria import activation, batch_norm, control, distance, gradient, norm  # noqa: F401
