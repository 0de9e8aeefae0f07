"""Measures of networks on the y axis of charts."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from blendsearch.results.formatting import format_share
from blendsearch.results.metrics import RunMetric
from blendsearch.results.report.chart import Unit
from blendsearch.runs.records import Evaluation


@dataclass(frozen=True)
class Measure:
    """The value on the y axis. `read` gives None for a network without it; `title` is another name to show."""

    name: str
    label: str
    unit: Unit
    read: Callable[[Evaluation], float | None]
    sign: int = 1
    title: str = ""

    def require(self, row: Evaluation) -> float:
        value = self.read(row)
        return self.get_worst() if value is None else value

    def get_worst(self) -> float:
        if self.sign < 0 and self.unit == "number":
            return float("-inf")
        return 0.0 if self.sign < 0 else 1.0 if self.unit == "share" else float("inf")

    def get_badness(self, row: Evaluation) -> float:
        """The value on a scale where less is better."""
        value = self.require(row)
        return 1 - value if self.sign < 0 else value

    def format(self, value: float) -> str:
        return format_share(value) if self.unit == "share" else f"{value:.4f}"


MEASURES = {
    "accuracy": Measure(
        "accuracy",
        "accuracy on validation images",
        "share",
        lambda row: None if row.error is None else 1 - row.error,
        -1,
    ),
    "error": Measure("error", "error on validation images", "share", lambda row: row.error),
    "loss": Measure("loss", "loss on validation data", "number", lambda row: row.loss),
}


def name_measure(measure: Measure, metric: RunMetric) -> Measure:
    """Return the measure under the name and the direction of the metric that stands in place of accuracy or loss."""
    if metric.name in ("accuracy", "loss") or (metric.share and measure.name == "loss"):
        return measure
    if metric.share and measure.name == "error":
        title = f"1 - {metric.name}"
        return replace(measure, title=title, label=f"{title} on validation data")
    named = replace(measure, title=metric.name, label=f"{metric.name} on validation data, {metric.direction}")
    return replace(named, sign=-1, read=_read_complement) if metric.higher and not metric.share else named


def _read_complement(row: Evaluation) -> float | None:
    return None if row.loss is None else 1 - row.loss
