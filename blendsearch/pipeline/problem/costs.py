"""The costs of a run besides MACs and parameters: found before its search, kept in its directory."""

import math
import os

import numpy as np
import torch
from torch import nn

from blendsearch.blend.allocation import Widths, check_reachable, compute_min_ratios
from blendsearch.errors import BudgetError
from blendsearch.events import LatencyFitted, LatencyMeasuring, Reporter, Warned
from blendsearch.fitness.latency_benchmark import build_latency_model
from blendsearch.fitness.timers import BenchmarkSettings
from blendsearch.runs.config.schema import BudgetConfig, Config, LatencyConfig
from blendsearch.runs.cost_files import add_cost
from blendsearch.runs.run_facts import LatencyModelFacts
from blendsearch.structure.cost import CostOracle
from blendsearch.structure.groups import IndexMaps
from blendsearch.structure.latency_model import LatencyModel
from blendsearch.structure.peak_memory import trace_peak_memory
from blendsearch.structure.trace import Structure

NOISY_MARGIN = 0.15
"""Margin, as a share, above which a warning is reported."""


def add_memory_cost(model: nn.Module, structure: Structure, input_shape: tuple[int, int, int]) -> CostOracle:
    """Return the oracle of `structure` with peak activation memory added; `model` is on the CPU."""
    return add_cost(structure.oracle, "memory", trace_peak_memory(model, structure.maps, input_shape), structure.maps)


def add_latency_cost(
    model: nn.Module,
    maps: IndexMaps,
    oracle: CostOracle,
    allowed: Widths,
    config: Config,
    input_shape: tuple[int, int, int],
    report: Reporter,
) -> CostOracle:
    """Return `oracle` with a latency model added, fitted to networks measured now on the device of `model`."""
    asked = config.budget
    where = describe_conditions(model, asked)
    report(LatencyMeasuring(cuts=asked.measured.cuts, where=where))
    spans = asked.get_spans()

    def interpolate_budget(target: float) -> dict[str, float]:
        return {name: low + (high - low) * target for name, (low, high) in spans.items()}

    found = build_latency_model(
        model,
        maps,
        oracle,
        allowed,
        interpolate_budget,
        make_conditions(asked, input_shape),
        asked.measured.cuts,
        np.random.default_rng([config.seed, 2]),
    )
    whole = add_cost(oracle, "latency", found, maps)
    least = compute_min_ratios(whole, allowed)["latency"]
    report(LatencyFitted(**describe_latency_model(found), where=where, reachable=least))
    _check_margin(found.margin, asked.measured.max_margin, report)
    check_reachable(whole, allowed, {"latency": spans["latency"][0]})
    return whole


def _check_margin(margin: float, most: float, report: Reporter) -> None:
    """Warn of a wide margin. Raises BudgetError for one above `most`."""
    remedy = "let the device do nothing else, or raise budget.measured.repeats, cuts or batch_size"
    if margin > most:
        raise BudgetError(
            f"latency was measured too unsteadily: cuts would be charged {margin:.0%} more than predicted, and "
            f"budget.measured.max_margin is {most:.0%}; {remedy}; or search with this margin by "
            f"--set budget.measured.max_margin={math.ceil(10 * margin) / 10:g}"
        )
    if margin > NOISY_MARGIN:
        text = f"latency was measured too unsteadily for a tight budget (cuts are charged {margin:.0%} extra): {remedy}"
        report(Warned(text=text))


def describe_latency_model(model: LatencyModel) -> LatencyModelFacts:
    """Describe a latency model: dense latency in milliseconds, held-out errors and margin as shares."""
    off = np.abs(model.errors)
    return {
        "dense_ms": model.dense / 1e6,
        "margin": model.margin,
        "error_median": float(np.median(off)),
        "error_most": float(off.max()),
        "held_out": len(off),
    }


def describe_conditions(model: nn.Module, budget: BudgetConfig) -> str:
    """Describe the runtime, device, batch size and precision of latency measurements."""
    how = budget.measured
    return f"{_describe_place(model, how)}, batch {how.batch_size}, {how.precision}"


def _describe_place(model: nn.Module, how: LatencyConfig) -> str:
    if how.command is not None:
        return f"the command {how.command[:80]!r}"
    device = next(model.parameters()).device
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} threads"
    if how.runtime == "onnxruntime":
        return f"ONNX Runtime, cpu, {threads}"
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type}, {threads}"


def make_conditions(budget: BudgetConfig, input_shape: tuple[int, int, int]) -> BenchmarkSettings:
    """Make the benchmark settings that the config asks for."""
    how = budget.measured
    return BenchmarkSettings(
        input_shape, how.batch_size, how.precision, how.repeats, how.runtime, how.command, how.timeout
    )
