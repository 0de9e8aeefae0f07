"""Costs of networks besides MACs and parameters, from a run directory alone: nothing is traced or measured."""

from collections.abc import Callable, Mapping

from blendsearch.results.records import BudgetedCosts
from blendsearch.runs.records import Evaluation, Latency
from blendsearch.runs.run import Run

BYTES_PER_WEIGHT = 4
"""Bytes of a float32 parameter."""

CostReader = Callable[[Evaluation, Mapping[str, Latency]], BudgetedCosts]
"""From a network and the measured latencies by digest to its budgeted costs."""


def needs_cuts_for_costs(run: Run) -> bool:
    """Return True where costs of a network depend on its cut: MACs and parameters are stored."""
    return bool({"memory", "latency"} & run.config.budget.get_spans().keys())


def make_cost_reader(run: Run) -> CostReader:
    """Make the function that reads memory and latency, where these have a budget."""
    if not needs_cuts_for_costs(run):
        return lambda row, latencies: BudgetedCosts()
    # these import numpy and torch: only for runs that need it
    import numpy as np

    from blendsearch.runs.cost_files import read_costs
    from blendsearch.structure.groups import unpack_cut
    from blendsearch.structure.latency_model import LatencyModel

    sizes = np.array([group["channels"] for group in run.structure["groups"]], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    costs = read_costs(run)
    dense = run.structure["dense"]

    def read(row: Evaluation, latencies: Mapping[str, Latency]) -> BudgetedCosts:
        counts = np.add.reduceat(unpack_cut(row.cut, int(sizes.sum())), starts, dtype=np.int64)
        ratios = {f"{name}_ratio": int(cost(counts)) / dense[name] for name, cost in costs.items()}
        latency = costs.get("latency")
        if not isinstance(latency, LatencyModel):
            return BudgetedCosts(**ratios)
        measured = latencies.get(row.digest)
        return BudgetedCosts(
            **ratios,
            latency_predicted=float(latency.predict(counts)),
            latency_measured=None if measured is None else measured.ratio,
            latency_ms=None if measured is None else measured.seconds * 1e3,
        )

    return read


def make_ranged_cost_reader(run: Run) -> Callable[[Evaluation], tuple[float, ...]]:
    """Make the function from a network to each cost whose budget spans a range, as shares of the dense cost."""
    names = run.config.budget.get_spanned_costs()
    dense, read_costs = run.structure["dense"], make_cost_reader(run)

    def read(row: Evaluation) -> tuple[float, ...]:
        known = {"macs": row.macs / dense["macs"], "params": row.params / dense["params"]}
        if any(name not in known for name in names):
            costs = read_costs(row, {})
            known |= {"memory": costs.memory_ratio or 0.0, "latency": costs.latency_ratio or 0.0}
        return tuple(known[name] for name in names)

    return read
