"""Origins: where the networks of a run come from, as stored text and as values."""

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from blendsearch.runs.config.method_registry import list_method_origins
from blendsearch.runs.records import Evaluation

DENSE = "dense"
"""The origin of the dense network."""
EVOLVED = "evolved"
"""The origin of a network that the optimizer proposed."""
EQUAL_BLEND = "equal blend"
"""The rule of a baseline that weighs all criteria alike."""
BEST_ALLOCATION = "in the best allocation"
"""The allocation of a baseline that is evaluated in the allocation of the best baseline."""


BETWEEN_NAMES, BEFORE_BUDGET, BEFORE_TRANSFORM = " = ", " at ", ", "


class OriginKind(StrEnum):
    """The kinds of origin. The values of CRITERION and BLEND are the names that tables and figures show."""

    DENSE = DENSE
    EVOLVED = EVOLVED
    CRITERION = "single criterion"
    BLEND = EQUAL_BLEND
    LABEL = "label"


@dataclass(frozen=True)
class OriginName:
    """One name of a network: a rule that ranks channels, an allocation, and where it applies a transform and a budget.

    Attributes
    ----------
    kind: LABEL for the network of another method, and for every name of unknown form; its text is then the rule.
    rule: the criterion's name, ``equal blend``, or the label.
    allocation: such as ``uniform``, ``global``, or BEST_ALLOCATION; empty for a label.
    transform: the decomposed layers, such as ``all depthwise``; empty for none.
    budget: the budget's text where budgets span a range, such as ``60% macs, 70% params``; None at one budget.
    """

    kind: OriginKind
    rule: str
    allocation: str = ""
    transform: str = ""
    budget: str | None = None

    @property
    def text(self) -> str:
        """The name as it is stored."""
        allocation = f" {self.allocation}" if self.allocation else ""
        transform = f"{BEFORE_TRANSFORM}{self.transform}" if self.transform else ""
        budget = "" if self.budget is None else f"{BEFORE_BUDGET}{self.budget}"
        return f"{self.rule}{allocation}{transform}{budget}"

    @property
    def in_best_allocation(self) -> bool:
        return self.allocation == BEST_ALLOCATION

    @property
    def family(self) -> str:
        """The kind of baseline at any budget; empty for the dense and for an evolved network.

        ``single criterion`` and ``equal blend`` stand for the uniform, the global and the given allocations; the best
        allocation and a transform are families of their own; a label is its own family.
        """
        if self.kind in (OriginKind.DENSE, OriginKind.EVOLVED):
            return ""
        kind = self.rule if self.kind is OriginKind.LABEL else self.kind.value
        allocation = f" {self.allocation}" if self.in_best_allocation else ""
        return f"{kind}{allocation}{BEFORE_TRANSFORM if self.transform else ''}{self.transform}"

    @property
    def baseline_kind(self) -> str:
        """The family with the budget, where there is one."""
        budget = "" if self.budget is None else f"{BEFORE_BUDGET}{self.budget}"
        return f"{self.family}{budget}" if self.family else ""


@dataclass(frozen=True)
class Origin:
    """The names of a network: several where baselines have the same cut. `text` is the inverse of `parse`."""

    names: tuple[OriginName, ...]

    @staticmethod
    def parse(text: str) -> "Origin":
        """The origin that a stored text describes. Every text is one: names of unknown form become labels."""
        return _parse(text, list_method_origins())

    @property
    def text(self) -> str:
        """The origin as it is stored."""
        return BETWEEN_NAMES.join(name.text for name in self.names)

    def __str__(self) -> str:
        return self.text

    @property
    def label(self) -> str:
        """The first name, for a reader."""
        return self.names[0].text

    @property
    def is_dense(self) -> bool:
        return self.names[0].kind is OriginKind.DENSE

    @property
    def is_evolved(self) -> bool:
        return self.names[0].kind is OriginKind.EVOLVED

    @property
    def is_baseline(self) -> bool:
        return bool(self.families)

    @property
    def in_best_allocation(self) -> bool:
        """True where one of the names is a rule in the allocation of the best baseline."""
        return any(name.in_best_allocation for name in self.names)

    @property
    def families(self) -> tuple[str, ...]:
        """The kinds of baseline that the network is, at any budget, without repetition."""
        return tuple(dict.fromkeys(name.family for name in self.names if name.family))

    @property
    def baseline_kinds(self) -> tuple[str, ...]:
        """The kinds of baseline that the network is, each with its budget where budgets span a range."""
        return tuple(dict.fromkeys(name.baseline_kind for name in self.names if name.family))

    def merge(self, other: "Origin") -> "Origin":
        """The origin of one network with the names of both; ``evolved`` only where neither has another name."""
        named = [origin for origin in (self, other) if not origin.is_evolved]
        return Origin(tuple(name for origin in named for name in origin.names)) if named else self


def make_rule_name(rule: str, allocation: str, transform: str = "", budget: str | None = None) -> str:
    """The stored name of a baseline that ranks channels by `rule`, a criterion or the equal blend."""
    kind = OriginKind.BLEND if rule == EQUAL_BLEND else OriginKind.CRITERION
    return OriginName(kind, rule, allocation, transform, budget).text


def list_baseline_kinds(row: Evaluation) -> list[str]:
    """The kinds of baseline that a row is, each with its budget where there are several; none for an evolved one."""
    return list(Origin.parse(row.origin).baseline_kinds)


@lru_cache(maxsize=4096)
def _parse(text: str, method_origins: frozenset[str]) -> Origin:
    if text == DENSE:
        return Origin((OriginName(OriginKind.DENSE, DENSE),))
    if text == EVOLVED:
        return Origin((OriginName(OriginKind.EVOLVED, EVOLVED),))
    return Origin(tuple(_parse_name(name, method_origins) for name in text.split(BETWEEN_NAMES)))


def _parse_name(text: str, method_origins: frozenset[str]) -> OriginName:
    rest, at, place = text.partition(BEFORE_BUDGET)
    budget = place if at else None
    transform = ""
    if rest.endswith(" depthwise") and BEFORE_TRANSFORM in rest:
        rest, _, transform = rest.rpartition(BEFORE_TRANSFORM)
    rule, allocation = _split_allocation(rest, method_origins)
    if not allocation:
        return OriginName(OriginKind.LABEL, rest, "", transform, budget)
    kind = OriginKind.BLEND if rule == EQUAL_BLEND else OriginKind.CRITERION
    return OriginName(kind, rule, allocation, transform, budget)


def _split_allocation(text: str, method_origins: frozenset[str]) -> tuple[str, str]:
    """Rule and allocation of a name; no allocation for a label.

    Labels are single words, and the origins that registered methods give to networks of their own.
    """
    if text == EQUAL_BLEND or text in method_origins:
        return text, ""
    if text.startswith(f"{EQUAL_BLEND} "):
        rule, allocation = EQUAL_BLEND, text[len(EQUAL_BLEND) + 1 :]
    elif text.endswith(f" {BEST_ALLOCATION}"):
        rule, allocation = text.removesuffix(f" {BEST_ALLOCATION}"), BEST_ALLOCATION
    else:
        rule, _, allocation = text.rpartition(" ")
    return (rule, allocation) if rule and allocation else (text, "")
