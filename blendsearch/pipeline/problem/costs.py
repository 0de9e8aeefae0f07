"""The costs of a run besides MACs and parameters: found before its search, kept in its directory."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from blendsearch.blend.allocation import Widths, check_reachable, reachable
from blendsearch.fitness.latency_benchmark import Conditions, latency_model
from blendsearch.runs.config.schema import BudgetConfig, Config
from blendsearch.runs.cost_files import _with
from blendsearch.structure.cost import CostOracle
from blendsearch.structure.groups import IndexMaps
from blendsearch.structure.latency_model import LatencyModel
from blendsearch.structure.peak_memory import peak_memory
from blendsearch.structure.trace import Structure

NOISY = 0.15
"""A margin above this share is worth a warning."""

Report = Callable[[str, Mapping[str, Any]], None]


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
