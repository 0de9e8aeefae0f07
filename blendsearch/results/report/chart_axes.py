"""Costs of networks on the x axis of charts, and the axes that a run offers."""

from collections.abc import Callable
from dataclasses import dataclass

from blendsearch.errors import RunError
from blendsearch.results.costs import BYTES_PER_WEIGHT, make_cost_reader
from blendsearch.results.formatting import COST_NAMES, format_bytes, format_share
from blendsearch.results.history import SearchHistory
from blendsearch.results.record import Record
from blendsearch.results.report.chart import Stage, Unit, XAxisName, YAxisName
from blendsearch.results.summary import has_accuracy
from blendsearch.runs.origin import DENSE
from blendsearch.runs.records import Evaluation
from blendsearch.runs.run import Run


@dataclass(frozen=True)
class CostAxis:
    """A cost on the x axis.

    Attributes
    ----------
    read: gives None for a network whose cost is unknown.
    ends: the ends of the budgets of this cost, on the axis.
    partial: whether the cost of some networks is unknown.
    """

    name: str
    label: str
    unit: Unit
    read: Callable[[Evaluation], float | None]
    ends: tuple[float, ...] = ()
    partial: bool = False

    def format(self, row: Evaluation) -> str:
        """Format the cost of a network: ``48.0 % of MACs``; empty where it is unknown."""
        value = self.read(row)
        if value is None:
            return ""
        return format_bytes(value) if self.unit == "bytes" else f"{format_share(value)} of {self.name}"


@dataclass(frozen=True, kw_only=True)
class AxisChoices(Record):
    """The axes and stages that charts of a run can have, besides ``auto``."""

    x: tuple[str, ...]
    y: tuple[str, ...]
    stages: tuple[str, ...]


def list_axes(run: Run) -> AxisChoices:
    """List what charts of `run` can show so far."""
    with run.open_store(read_only=True) as store:
        measured, tuned = bool(store.read_latencies()), bool(store.read_finals())
    budgeted: list[XAxisName] = [name for name in ("memory", "latency") if name in run.config.budget.get_spans()]
    x: list[XAxisName] = ["evaluations", "macs", "params", "bytes", *budgeted]
    y: tuple[YAxisName, ...] = ("accuracy", "error", "loss") if has_accuracy(run) else ("loss",)
    stages: tuple[Stage, ...] = ("both", "before", "after") if tuned else ("both",)
    return AxisChoices(x=(*x, "measured") if measured else tuple(x), y=y, stages=stages)


def make_cost_axis(run: Run, history: SearchHistory, name: XAxisName) -> CostAxis:
    """Make the axis of a cost. Raises RunError where the networks of the run have no such cost."""
    if name in ("auto", "evaluations"):
        return _make_share_axis(run, history.cost, history.share)
    dense = run.structure["dense"]
    if name == "macs":
        return _make_share_axis(run, COST_NAMES[name], lambda row: float(row.macs / dense["macs"]))
    if name == "params":
        return _make_share_axis(run, COST_NAMES[name], lambda row: float(row.params / dense["params"]))
    if name == "bytes":
        return _make_bytes_axis(run)
    if name == "measured":
        return _make_measured_axis(run)
    if name not in run.config.budget.get_spans():
        raise RunError(f"run {run.name!r} has no budget of {name}: its networks were not measured by it")
    read = make_cost_reader(run)
    return _make_share_axis(
        run,
        COST_NAMES[name],
        lambda row: 1.0 if row.origin == DENSE else float(getattr(read(row, {}), f"{name}_ratio")),
    )


def _make_share_axis(run: Run, name: str, read: Callable[[Evaluation], float]) -> CostAxis:
    spans = run.config.budget.get_spans()
    ends = next((span for key, span in spans.items() if COST_NAMES[key] == name), ())
    return CostAxis(name, f"{name}, share of the dense network's", "share", read, ends)


def _make_bytes_axis(run: Run) -> CostAxis:
    whole = BYTES_PER_WEIGHT * run.structure["dense"]["params"]
    ends = tuple(share * whole for share in run.config.budget.get_spans().get("params", ()))
    return CostAxis(
        "bytes", "size of the float32 weights", "bytes", lambda row: float(BYTES_PER_WEIGHT * row.params), ends
    )


def _make_measured_axis(run: Run) -> CostAxis:
    with run.open_store(read_only=True) as store:
        latencies = store.read_latencies()
    if not latencies:
        raise RunError(f"run {run.name!r} has no measured latencies: they are measured at the end of its search")

    def read(row: Evaluation) -> float | None:
        found = latencies.get(row.digest)
        return 1.0 if row.origin == DENSE else None if found is None else found.ratio

    return CostAxis("measured latency", "measured latency, share of the dense network's", "share", read, partial=True)
