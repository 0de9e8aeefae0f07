"""Measures of networks on the y axis of charts."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from blendsearch.results.formatting import format_share
from blendsearch.results.report.chart import Unit
from blendsearch.runs.records import Evaluation


@dataclass(frozen=True)
class Measure:
    """The value on the y axis. `read` gives None for a network without it."""

    name: str
    label: str
    unit: Unit
    read: Callable[[Evaluation], float | None]
    sign: int = 1

    def require(self, row: Evaluation) -> float:
        value = self.read(row)
        return self.get_worst() if value is None else value

    def get_worst(self) -> float:
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


def name_measure(measure: Measure, accuracy: str) -> Measure:
    """Return the measure under the name of the score that stands in place of the accuracy."""
    if accuracy == "accuracy" or measure.name == "loss":
        return measure
    title = accuracy if measure.name == "accuracy" else f"1 - {accuracy}"
    return replace(measure, label=f"{title} on validation data")
