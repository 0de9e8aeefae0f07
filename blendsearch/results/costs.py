"""What a run's networks cost besides MACs and parameters, from its directory alone: nothing is traced or measured."""

from collections.abc import Callable
from typing import Any

import numpy as np

from blendsearch.runs.records import Evaluation, Latency
from blendsearch.runs.run import Run
from blendsearch.structure.groups import unpack_cut


def make_cost_reader(run: Run) -> Callable[[Evaluation, dict[str, Latency]], dict[str, Any]]:
    """From a network and the measured latencies to ``memory_ratio`` and ``latency_ratio``, where these are budgeted.

    ``latency_ratio`` is what the budget was charged; beside it stand ``latency_predicted``, what the model expected,
    and ``latency_measured`` and ``latency_ms``, None until the search has finished or for a network that is not shown.
    """
    if not {"memory", "latency"} & run.config.budget.get_spans().keys():
        return lambda row, latencies: {}
    # these import torch: only for runs that need it
    from blendsearch.runs.cost_files import COSTS_FILE, restore_costs
    from blendsearch.structure.latency_model import LatencyModel

    sizes = np.array([group["channels"] for group in run.structure["groups"]], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    costs = restore_costs(run.config.budget, run.read_arrays(COSTS_FILE))
    dense = run.structure["dense"]

    def read(row: Evaluation, latencies: dict[str, Latency]) -> dict[str, Any]:
        counts = np.add.reduceat(unpack_cut(row.cut, int(sizes.sum())), starts, dtype=np.int64)
        found: dict[str, Any] = {f"{name}_ratio": int(cost(counts)) / dense[name] for name, cost in costs.items()}
        latency = costs.get("latency")
        if isinstance(latency, LatencyModel):
            measured = latencies.get(row.digest)
            found["latency_predicted"] = float(latency.predict(counts))
            found["latency_measured"] = None if measured is None else measured.ratio
            found["latency_ms"] = None if measured is None else measured.seconds * 1e3
        return found

    return read


def make_ranged_cost_reader(run: Run) -> Callable[[Evaluation], tuple[float, ...]]:
    """From a network to what it spends of each cost whose budget spans a range, as shares of the dense cost."""
    names = run.config.budget.get_spanned_costs()
    dense, further = run.structure["dense"], make_cost_reader(run)

    def read(row: Evaluation) -> tuple[float, ...]:
        known = {"macs": row.macs / dense["macs"], "params": row.params / dense["params"]}
        rest = further(row, {}) if any(name not in known for name in names) else {}
        return tuple(known[name] if name in known else rest[f"{name}_ratio"] for name in names)

    return read
