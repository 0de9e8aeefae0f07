"""A network of an answer beside the dense one, and its gains and losses in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from blendsearch.results.formatting import COST_NAMES, format_bytes, format_factor, format_signed_points
from blendsearch.results.latency_text import RUNTIME_NAMES
from blendsearch.results.metrics import ACCURACY, RunMetric
from blendsearch.results.record import Record

SAME = 0.02
"""A latency within this share of the dense network's is called as fast."""


class RuntimeRow(TypedDict):
    """Milliseconds of one pass of a network in a runtime, and its share of the dense network's time."""

    ms: float
    ratio: float


@dataclass(frozen=True, kw_only=True)
class AnswerRow(Record):
    """A network beside the dense one.

    Attributes
    ----------
    mark: ``best``, ``knee``, both, or empty.
    bytes: size of its float32 parameters.
    latency_ms, latency_ratio: measured at the end of the search, beside the dense network; None where not measured.
    runtimes: milliseconds and ratio in further runtimes, by name, such as ``onnxruntime``.
    trained: the accuracies are those after the long fine-tune.
    val_spread, test_spread: standard deviations of the accuracies over seeds; None of one seed.
    points: difference of accuracies to the dense network's, in [-1, 1]: on test images where there are any.
    """

    id: int
    name: str
    mark: str
    macs_ratio: float
    params_ratio: float
    bytes: int
    latency_ms: float | None
    latency_ratio: float | None
    runtimes: Mapping[str, RuntimeRow]
    trained: bool
    val_loss: float | None
    val_accuracy: float | None
    test_accuracy: float | None
    val_spread: float | None
    test_spread: float | None
    points: float | None


def format_gains(
    row: AnswerRow,
    dense: AnswerRow | None,
    costs: Sequence[str],
    machine: str,
    after: str,
    metric: RunMetric = ACCURACY,
) -> str:
    """Format what a network gains and loses: ``2.7x fewer MACs, 68 kB instead of 174 kB, ...``."""
    parts = [format_factor(getattr(row, f"{cost}_ratio"), f"fewer {COST_NAMES[cost]}") for cost in costs]
    if dense is not None:
        parts.append(f"{format_bytes(row.bytes)} instead of {format_bytes(dense.bytes)}")
    if row.latency_ratio is not None:
        others = [f"{_format_speed(item['ratio'])} in {RUNTIME_NAMES[name]}" for name, item in row.runtimes.items()]
        further = f" ({', '.join(others)})" if others else ""
        parts.append(f"{_format_speed(row.latency_ratio)} on {machine}{further}")
    parts.append(_format_quality(row, dense, after, metric))
    return ", ".join(part for part in parts if part)


def _format_speed(ratio: float) -> str:
    if abs(ratio - 1) < SAME:
        return "as fast"
    return f"{1 / ratio:.1f}x faster" if ratio < 1 else f"{ratio:.1f}x slower"


def _format_quality(row: AnswerRow, dense: AnswerRow | None, after: str, metric: RunMetric) -> str:
    if row.val_accuracy is None:
        known = None if dense is None or dense.val_loss is None else metric.convert_loss(dense.val_loss)
        instead = "" if known is None else f" instead of {known:.4g}"
        own = None if row.val_loss is None else metric.convert_loss(row.val_loss)
        return "" if own is None else f"validation {metric.loss_name} {own:.4g}{instead} {after}"
    tested = row.test_accuracy is not None
    own, images = (row.test_accuracy, "test") if tested else (row.val_accuracy, "validation")
    other = None if dense is None else dense.test_accuracy if tested else dense.val_accuracy
    if row.points is None or other is None:
        return f"{images} {metric.name} {own:.1%} {after}"
    points = format_signed_points(row.points, metric.name)
    return f"{points} {after} ({images} {metric.name} {own:.1%} instead of {other:.1%})"
