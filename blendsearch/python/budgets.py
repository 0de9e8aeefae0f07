"""Budgets as expressions: ``macs(0.5) & params(0.6)``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from blendsearch.errors import ConfigError


@dataclass(frozen=True)
class Budget:
    """A share of the dense network's cost, or several that must all be met: the `budget` section of a config.

    Made by `macs`, `params`, `memory` and `latency`, and joined by ``&``; `given` adds further fields of the section.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)

    def __and__(self, other: "Budget") -> "Budget":
        """Both. Raises ConfigError where both say something of the same."""
        if not isinstance(other, Budget):
            return NotImplemented
        twice = self.fields.keys() & other.fields.keys()
        if twice:
            raise ConfigError(f"budget.{min(twice)} is given twice: join budgets of different costs")
        return Budget({**self.fields, **other.fields})

    def with_options(self, **fields: Any) -> "Budget":
        """The same budget with further fields, such as ``min_keep=0.1`` or ``round_to=8``."""
        return self & Budget(fields)

    def __str__(self) -> str:
        return " and ".join(f"{name} {value}" for name, value in self.fields.items())


def macs(share: float, upper: float | None = None) -> Budget:
    """At most this share, in (0, 1], of the dense network's multiply-accumulates.

    With two numbers, networks all over that range are searched for: a front.
    """
    return Budget({"macs": _make_range(share, upper)})


def params(share: float, upper: float | None = None) -> Budget:
    """At most this share, in (0, 1], of the dense network's parameters; or a range of shares."""
    return Budget({"params": _make_range(share, upper)})


def memory(share: float, upper: float | None = None) -> Budget:
    """At most this share, in (0, 1], of the bytes that are alive at once in a forward pass of one image; or a range."""
    return Budget({"memory": _make_range(share, upper)})


def latency(share: float, upper: float | None = None, **conditions: Any) -> Budget:
    """At most this share, in (0, 1], of the dense network's time for a forward pass on this device; or a range.

    `measured` says how: ``batch_size``, ``precision``, ``repeats``, ``cuts``.
    """
    return Budget({"latency": _make_range(share, upper), **({"measured": conditions} if conditions else {})})


def keep(share: float | Mapping[str, float]) -> Budget:
    """Widths given beforehand: the share of channels that every group keeps, or one share per pattern of names."""
    return Budget({"keep": share if isinstance(share, int | float) else dict(share)})


def _make_range(share: float, upper: float | None) -> Any:
    return share if upper is None else [share, upper]
