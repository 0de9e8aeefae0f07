"""Budgets as expressions: ``macs(0.5) & params(0.6)``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from blendsearch.errors import ConfigError

Share = float | str
"""A share in (0, 1], or a text such as ``50%``."""

BudgetShare = float | str | tuple[float | str, float | str]
"""A budget of MACs: a share, or a range of shares."""


@dataclass(frozen=True)
class Budget:
    """Shares of the dense network's costs, all of which must be met: the `budget` section of a config.

    `macs`, `params`, `memory`, `latency` and `keep` make one, and ``&`` joins two. `with_options` adds further fields
    of the section.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)

    def __and__(self, other: "Budget") -> "Budget":
        """Join two budgets. Raises ConfigError if both set the same field."""
        if not isinstance(other, Budget):
            return NotImplemented
        twice = self.fields.keys() & other.fields.keys()
        if twice:
            raise ConfigError(f"budget.{min(twice)} is set twice: join budgets of different costs")
        return Budget({**self.fields, **other.fields})

    def with_options(self, **fields: Any) -> "Budget":
        """Add further fields, such as ``min_keep=0.1`` or ``round_to=8``."""
        return self & Budget(fields)

    def __str__(self) -> str:
        return " and ".join(f"{name} {value}" for name, value in self.fields.items())


def macs(share: Share, upper: Share | None = None) -> Budget:
    """Limit multiply-accumulates to a share, in (0, 1], of the dense network's.

    With two numbers, the search covers that range and yields a front.
    """
    return Budget({"macs": _make_range(share, upper)})


def params(share: Share, upper: Share | None = None) -> Budget:
    """Limit parameters to a share, in (0, 1], of the dense network's, or search a range of shares."""
    return Budget({"params": _make_range(share, upper)})


def memory(share: Share, upper: Share | None = None) -> Budget:
    """Limit peak activation memory to a share, in (0, 1], of the dense network's, or search a range of shares.

    Peak activation memory is the largest number of bytes alive at once in the forward pass of one image.
    """
    return Budget({"memory": _make_range(share, upper)})


def latency(share: Share, upper: Share | None = None, **conditions: Any) -> Budget:
    """Limit the time of a forward pass to a share, in (0, 1], of the dense network's, or search a range.

    `conditions` are fields of the section `budget.measured`: ``batch_size``, ``precision``, ``repeats``, ``cuts``,
    ``runtime``, ``command``, ``timeout``, ``max_margin``.
    """
    return Budget({"latency": _make_range(share, upper), **({"measured": conditions} if conditions else {})})


def keep(share: float | Mapping[str, float]) -> Budget:
    """Fix the widths: the share of channels that every group keeps, or one share per pattern of group names."""
    return Budget({"keep": share if isinstance(share, int | float) else dict(share)})


def _make_range(share: Share, upper: Share | None) -> Share | list[Share]:
    return share if upper is None else [share, upper]
