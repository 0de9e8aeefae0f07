"""The description of a chart: typed points, lines and axes, before anything is drawn."""

from dataclasses import dataclass
from typing import Literal

XAxisName = Literal["auto", "evaluations", "macs", "params", "bytes", "memory", "latency", "measured"]
YAxisName = Literal["auto", "accuracy", "error", "loss"]
Stage = Literal["both", "before", "after"]
Unit = Literal["share", "count", "number", "bytes"]
Vertex = tuple[float, float]
WIDTH, NARROW_WIDTH = 780.0, 400.0
"""Widths of charts in pixels: of a page, and of a phone."""


@dataclass(frozen=True)
class ChartOptions:
    """The choices of a reader.

    Attributes
    ----------
    x: a cost or the number of evaluations; ``auto`` is the cost whose budget is a range, else the evaluations.
    y: ``auto`` is the accuracy on validation images, or the loss where the run has no accuracies.
    log: whether the x axis is logarithmic.
    stage: the networks before the long fine-tune, after it, or both in one chart.
    narrow: whether the chart is drawn for the width of a phone.
    """

    x: XAxisName = "auto"
    y: YAxisName = "auto"
    log: bool = False
    stage: Stage = "both"
    narrow: bool = False


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`; points beyond its ends are drawn at its ends.

    `falls`: lower values are better, so that points beyond the upper end are the worse ones.
    """

    label: str
    low: float
    high: float
    unit: Unit
    log: bool = False
    falls: bool = False

    def clamp(self, value: float) -> float:
        return min(self.high, max(self.low, value))

    def contains(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class ChartPoint:
    """A network (`id` None: something else) with the text of its tooltip; `label` is best, knee or empty."""

    id: int | None
    x: float
    y: float
    tip: str
    label: str = ""


@dataclass(frozen=True)
class ChartSeries:
    """Points and a line that share a style and a line of the legend.

    `style` is a key of `figures.STYLES`; `label` names the line at its end.
    """

    name: str
    style: str
    points: tuple[ChartPoint, ...] = ()
    line: tuple[Vertex, ...] = ()
    label: str = ""


@dataclass(frozen=True)
class FrontChart:
    """A chart, from the back to the front; `name` is unique on a page, `description` is its text alternative."""

    name: str
    title: str
    description: str
    x: Axis
    y: Axis
    series: tuple[ChartSeries, ...]
    height: float = 400.0
    width: float = WIDTH
