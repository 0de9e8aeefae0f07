"""Storage of cost models in a run directory."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blendsearch.errors import RunError
from blendsearch.runs.config.schema import BudgetConfig
from blendsearch.runs.run import Run
from blendsearch.structure.cost import CostOracle
from blendsearch.structure.groups import IndexMaps
from blendsearch.structure.latency_model import LatencyModel
from blendsearch.structure.peak_memory import PeakMemory
from blendsearch.structure.trace import Structure

Arrays = Mapping[str, NDArray[Any]]


COSTS_FILE = "costs"
"""Stem of the file with the cost models; a run without such budgets has none."""


def collect_cost_arrays(oracle: CostOracle) -> dict[str, NDArray[Any]]:
    """Collect the extra costs of `oracle` as arrays by name; empty if no budget uses them."""
    found: dict[str, NDArray[Any]] = {}
    for name, cost in oracle.extra_costs.items():
        arrays: Arrays = cost.to_arrays() if isinstance(cost, LatencyModel) else vars(cost)
        found |= {f"{name}.{key}": value for key, value in arrays.items()}
    return found


def restore_costs(budget: BudgetConfig, arrays: Arrays) -> dict[str, PeakMemory | LatencyModel]:
    """Restore from the arrays of `collect_cost_arrays` the costs that `budget` uses, by name."""
    found: dict[str, PeakMemory | LatencyModel] = {}
    for name in budget.get_spans():
        own = {key.removeprefix(f"{name}."): value for key, value in arrays.items() if key.startswith(f"{name}.")}
        if name == "memory":
            found[name] = PeakMemory(own["base"], own["slope"])
        elif name == "latency":
            found[name] = LatencyModel.from_arrays(own)
    return found


def read_costs(run: Run) -> dict[str, PeakMemory | LatencyModel]:
    """Read the extra costs of `run` by name. Raises RunError where ``costs.safetensors`` is missing or damaged."""
    sizes = np.array([group["channels"] for group in run.structure["groups"]], dtype=np.int64)
    stored = run.read_arrays(COSTS_FILE)
    try:
        if not all(np.isfinite(values).all() for values in stored.values()):
            raise ValueError("it holds values that are not finite")
        found = restore_costs(run.config.budget, stored)
        for name, cost in found.items():
            known = cost.dense if isinstance(cost, LatencyModel) else int(cost(sizes))
            if known != run.structure["dense"][name] or not np.isfinite(cost(sizes)).all():
                raise ValueError(f"{name} of the dense network is {known}, run.json has another")
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise RunError(
            f"{run.path / COSTS_FILE}.safetensors does not fit run.json ({error}): restore both from a copy"
        ) from error
    return found


def load_oracle(run: Run, structure: Structure, budget: BudgetConfig | None = None) -> CostOracle:
    """Load the cost oracle of `run` without new measurements.

    With another `budget`, the oracle has the stored costs that this budget uses, except a latency measured under other
    conditions.
    """
    oracle, known = structure.oracle, run.config.budget
    if {"memory", "latency"} & known.get_spans().keys():
        for name, cost in read_costs(run).items():
            other = budget is not None and (
                name not in budget.get_spans() or (name == "latency" and budget.measured != known.measured)
            )
            oracle = oracle if other else add_cost(oracle, name, cost, structure.maps)
    return oracle


def add_cost(oracle: CostOracle, name: str, cost: PeakMemory | LatencyModel, maps: IndexMaps) -> CostOracle:
    """Add cost `name` to `oracle`, with the cost of the dense network."""
    return oracle.add_cost(name, cost, cost.dense if isinstance(cost, LatencyModel) else int(cost(maps.sizes)))
