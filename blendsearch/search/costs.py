"""The costs of a run besides MACs and parameters: found before its search, kept in its directory."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from blendsearch.blend.allocation import Widths, check_reachable, reachable
from blendsearch.fitness.latency import Conditions, latency_model
from blendsearch.runs.config import BudgetConfig, Config
from blendsearch.runs.directory import Run
from blendsearch.structure.cost import CostOracle
from blendsearch.structure.groups import IndexMaps
from blendsearch.structure.latency import LatencyModel
from blendsearch.structure.memory import PeakMemory, peak_memory
from blendsearch.structure.trace import Structure

NOISY = 0.15
"""A margin above this share is worth a warning."""

Report = Callable[[str, Mapping[str, Any]], None]
Arrays = Mapping[str, NDArray[Any]]

FILE = "costs"
"""Stem of the file of a run directory that holds these oracles; a run without such budgets has none."""


def with_memory(model: nn.Module, structure: Structure, input_shape: tuple[int, int, int]) -> CostOracle:
    """The oracle of `structure` that also knows peak activation memory; `model` is on the CPU."""
    return _with(structure.oracle, "memory", peak_memory(model, structure.maps, input_shape), structure.maps)


def with_latency(
    model: nn.Module,
    maps: IndexMaps,
    oracle: CostOracle,
    allowed: Widths,
    config: Config,
    input_shape: tuple[int, int, int],
    report: Report,
) -> CostOracle:
    """`oracle` that also knows latency, fitted on networks measured now, on the device that `model` is on."""
    asked = config.budget
    where = conditions_text(model, asked)
    report("measuring", {"cuts": asked.measured.cuts, "where": where})
    spans = asked.spans()

    def budget_at(target: float) -> dict[str, float]:
        return {name: low + (high - low) * target for name, (low, high) in spans.items()}

    found = latency_model(
        model,
        maps,
        oracle,
        allowed,
        budget_at,
        conditions(asked, input_shape),
        asked.measured.cuts,
        np.random.default_rng([config.seed, 2]),
    )
    whole = _with(oracle, "latency", found, maps)
    least = reachable(whole, allowed)["latency"]
    report("latency", {**latency_facts(found), "where": where, "reachable": least})
    if found.margin > NOISY:
        text = (
            f"latency was measured too unsteadily for a tight budget (cuts are charged {found.margin:.0%} extra): let "
            "the device do nothing else, or raise budget.measured.repeats, cuts or batch_size"
        )
        report("warning", {"text": text})
    check_reachable(whole, allowed, {"latency": spans["latency"][0]})
    return whole


def latency_facts(model: LatencyModel) -> dict[str, Any]:
    """What a latency model states of itself: the dense milliseconds, its held-out errors and its margin as shares."""
    off = np.abs(model.errors)
    return {
        "dense_ms": model.dense / 1e6,
        "margin": model.margin,
        "error_median": float(np.median(off)),
        "error_most": float(off.max()),
        "held_out": len(off),
    }


def conditions_text(model: nn.Module, asked: BudgetConfig) -> str:
    """Where and how latency is measured, for a person."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        place = torch.cuda.get_device_name(device)
    else:
        place = f"{device.type}, {torch.get_num_threads()} of {os.cpu_count()} threads"
    return f"{place}, batch {asked.measured.batch_size}, {asked.measured.precision}"


def conditions(asked: BudgetConfig, input_shape: tuple[int, int, int]) -> Conditions:
    """What the config asks latency to be measured under."""
    how = asked.measured
    return Conditions(input_shape, how.batch_size, how.precision, how.repeats)


def cost_arrays(oracle: CostOracle) -> dict[str, NDArray[Any]]:
    """The further costs of `oracle`, as arrays by name; none where no budget asks for them."""
    found: dict[str, NDArray[Any]] = {}
    for name, cost in oracle.further.items():
        arrays: Arrays = cost.arrays() if isinstance(cost, LatencyModel) else vars(cost)
        found |= {f"{name}.{key}": value for key, value in arrays.items()}
    return found


def further_costs(budget: BudgetConfig, arrays: Arrays) -> dict[str, PeakMemory | LatencyModel]:
    """The costs that `cost_arrays` gave these arrays, by name: those that `budget` asks for."""
    found: dict[str, PeakMemory | LatencyModel] = {}
    for name in budget.spans():
        own = {key.removeprefix(f"{name}."): value for key, value in arrays.items() if key.startswith(f"{name}.")}
        if name == "memory":
            found[name] = PeakMemory(own["base"], own["slope"])
        elif name == "latency":
            found[name] = LatencyModel.of_arrays(own)
    return found


def stored_oracle(run: Run, structure: Structure, budget: BudgetConfig | None = None) -> CostOracle:
    """The oracle that `run` was searched with: nothing is measured anew.

    With another `budget`, what that one asks for and `run` knows; a latency measured in another way is not known.
    """
    oracle, known = structure.oracle, run.config.budget
    if {"memory", "latency"} & known.spans().keys():
        for name, cost in further_costs(known, run.arrays(FILE)).items():
            other = budget is not None and (
                name not in budget.spans() or (name == "latency" and budget.measured != known.measured)
            )
            oracle = oracle if other else _with(oracle, name, cost, structure.maps)
    return oracle


def _with(oracle: CostOracle, name: str, cost: PeakMemory | LatencyModel, maps: IndexMaps) -> CostOracle:
    return oracle.with_cost(name, cost, cost.dense if isinstance(cost, LatencyModel) else int(cost(maps.sizes)))
