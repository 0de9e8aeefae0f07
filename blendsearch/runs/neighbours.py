"""Sections of the config for allocations that are measured, and for the method that trains towards a budget."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from blendsearch.runs.section import Positive, Ratio, ScheduleConfig, Section

if TYPE_CHECKING:
    from blendsearch.runs.config import Config

MEASURED = ("sensitivity", "derived", "tailored")
"""Allocations that take work on the network to find, and the methods of the same names."""

Part = Annotated[float, Field(ge=0, lt=1)]


class AllocatingConfig(Section):
    """Allocations ``global`` and ``sensitivity``; see blend.fixed and search.sensitivity.

    `criterion`: whose raw scores one threshold is laid over, and whose least channels are left out while a group's
    sensitivity is measured; ``blend`` is all of the pool alike. `ratios`: the parts of its channels that a group keeps
    when it is measured, judged at `fidelity` by the growth of `measure`.
    """

    criterion: str = "blend"
    ratios: tuple[Ratio, ...] = (0.8, 0.6, 0.4, 0.2)
    fidelity: Literal["raw", "recalibrated", "tuned"] = "recalibrated"
    measure: Literal["error", "loss"] = "error"

    @field_validator("ratios")
    @classmethod
    def _descending(cls, ratios: tuple[float, ...]) -> tuple[float, ...]:
        if not ratios or max(ratios) >= 1:
            raise ValueError("expected at least one part of a group's channels, each below 1")
        return tuple(sorted(set(ratios), reverse=True))


class DerivedConfig(Section):
    """Allocation and method ``derived``; see search.derived.

    `margin`: how far the loss may grow, as a part of the dense network's; `tolerance`: how far validation accuracy may
    fall. `ladder`: rates that a group may lose in one step. `trust`: the first trust region, as a part of the error
    that the largest rates everywhere would make; `grow` and `shrink` it by these. `steps`: the search limit. `tuning`
    retrains after every step, `final` once more at the end.
    """

    margin: Annotated[float, Field(gt=0)] = 0.1
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.01
    batches: Positive = 100
    batch_size: Positive = 64
    ladder: tuple[Part, ...] = (0.5, 0.4, 0.3, 0.2, 0.1)
    trust: Annotated[float, Field(gt=0)] = 0.25
    grow: Annotated[float, Field(gt=1)] = 2.0
    shrink: Annotated[float, Field(gt=0, lt=1)] = 0.5
    steps: Positive = 20
    tuning: ScheduleConfig = ScheduleConfig(epochs=1.0)
    final: ScheduleConfig | None = None


class TailoredConfig(Section):
    """Method ``tailored``; see search.tailored.

    `tuning`: the one training run, of whole epochs; the network is to arrive at its budget after the part `arrival` of
    its steps. `by_cost`: how much more a dear channel is pressed than a cheap one: its cost to this power.
    """

    tuning: ScheduleConfig = ScheduleConfig(epochs=20.0)
    arrival: Ratio = 0.5
    by_cost: Annotated[float, Field(ge=0, le=2)] = 0.0


def check_measured(config: "Config") -> None:
    """Raise ValueError for what these allocations and methods cannot do."""
    asked = [name for name in MEASURED if name in (*config.search.seeds, config.allocation, config.method)]
    if asked and not config.budget.spans():
        raise ValueError(f"{asked[0]} finds widths for a budget: give one instead of budget.keep")
    if asked and config.transform != "none":
        raise ValueError(f"{asked[0]} knows of no decomposed layers: leave transform out")
    if config.budget.spanned() and ("tailored" in asked or config.method in asked):
        raise ValueError("one network is trained towards one budget: give one number, not [least, most]")
    if "tailored" in asked and not set(config.budget.spans()) <= {"macs", "params"}:
        raise ValueError("tailored presses on what every channel adds to: leave budget.memory and latency out")
    if config.search.seeds and (config.method not in ("blended", "random") or config.allocation != "evolved"):
        raise ValueError("search.seeds begin a search that evolves its widths: leave them out")
    if config.method in ("derived", "tailored") and config.finals.picks:
        raise ValueError(f"method {config.method} trains its network itself: leave finals.picks at 0")
