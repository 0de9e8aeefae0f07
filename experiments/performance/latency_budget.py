"""Measure how closely networks keep a latency budget of 0.6, for ResNet-18 on one CPU thread of this machine.

    python experiments/performance/latency_budget.py [--cpu-clock] [SIDE ...]          # image sides; default 64 128

With --cpu-clock a pass is timed by the processor time of its thread instead of the wall clock. This excludes other
processes of the machine; the error of the model itself remains.

The latency model is fitted to 60 measured cuts, as in a search. It then allocates a budget of 60 % of the dense latency
to all layers uniformly, and to 19 random genomes with strong and weak shares. These 20 networks, none of which the
model was fitted to, are cut and measured three times. Prints the predicted, the charged and the measured latencies, and
writes them to latency_budget.json beside this file. For comparison, the same with budgets of 60 % of MACs.
"""

import json
import os
import statistics
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blendsearch.blend.allocation import allocate, compute_min_ratios, make_widths
from blendsearch.fitness import latency_benchmark as latency
from blendsearch.fitness import timers
from blendsearch.structure.trace import trace_structure
from blendsearch.zoo.factory import build_model

BUDGET, CUTS, HELD_OUT, ROUNDS = 0.6, 60, 20, 3


def main() -> None:
    torch.set_num_threads(1)
    words = sys.argv[1:]
    clock = "wall clock"
    if "--cpu-clock" in words:
        words.remove("--cpu-clock")
        clock = "processor time"
        timers.time = types.SimpleNamespace(perf_counter=time.thread_time)
    results = {f"resnet18 at {side} px": measure_side(int(side)) for side in words or (64, 128)}
    print(json.dumps(results, indent=1))
    path = Path(__file__).with_suffix(".json")
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | {clock: results}, indent=1) + "\n")


def measure_side(side: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = build_model("torchvision:resnet18").eval()
    structure = trace_structure(model, (3, side, side))
    maps, allowed = structure.maps, make_widths(structure.maps.sizes, 2, 0.05, 1)
    conditions = latency.BenchmarkSettings((3, side, side), 1, "float32", 15)
    rng = np.random.default_rng(0)
    load, start = os.getloadavg()[0], time.perf_counter()
    fit = latency.build_latency_model(
        model, maps, structure.oracle, allowed, lambda _: {"latency": BUDGET}, conditions, CUTS, rng
    )
    took = time.perf_counter() - start
    oracle = structure.oracle.add_cost("latency", fit, fit.dense)
    share = [np.zeros(len(allowed.sizes))] + [
        rng.uniform(-1, 1, len(allowed.sizes)) * rng.random() for _ in range(HELD_OUT - 1)
    ]
    found = {}
    for budget in ("latency", "macs"):
        counts = np.stack([allocate(oracle, allowed, {budget: BUDGET}, row) for row in share])
        cuts = [
            np.concatenate([np.arange(size) < number for size, number in zip(maps.sizes, row, strict=True)])
            for row in counts
        ]
        rounds = []
        for _ in range(ROUNDS):
            seconds = latency.measure_latencies(model, maps, cuts, conditions)
            rounds.append(seconds[:, 1] / seconds[:, 0])
        ratio = np.median(rounds, axis=0)
        found[f"budget of {BUDGET:.0%} {budget}"] = {
            "uniform": {
                "macs": compute_share(oracle.compute_ratio("macs", counts[0])),
                "predicted": compute_share(fit.predict(counts[0])),
                "charged": compute_share(oracle.compute_ratio("latency", counts[0])),
                "measured": compute_share(ratio[0]),
            },
            "held-out cuts": {
                "error, median": compute_share(np.median(np.abs(ratio / fit.predict(counts) - 1))),
                "error, 90 %": compute_share(np.quantile(np.abs(ratio / fit.predict(counts) - 1), 0.9)),
                "charged, least and most": [
                    compute_share(end(oracle.compute_ratio("latency", counts))) for end in (np.min, np.max)
                ],
                "measured, least, median and most": [compute_share(np.quantile(ratio, at)) for at in (0, 0.5, 1)],
                "slower than the budget": int((ratio > BUDGET).sum()),
                "of": HELD_OUT,
            },
            "spread of a ratio between rounds, median": compute_share(np.median(np.ptp(rounds, axis=0) / ratio)),
        }
    return {
        "dense_ms": round(fit.dense / 1e6, 2),
        "margin": compute_share(fit.margin),
        "error when held out of the fit, median": compute_share(statistics.median(abs(float(e)) for e in fit.errors)),
        "reachable from": compute_share(compute_min_ratios(oracle, allowed)["latency"]),
        **found,
        "measuring and fitting took_s": round(took, 1),
        "load average and cores": [round(load, 1), os.cpu_count()],
    }


def compute_share(value: Any) -> float:
    return round(float(value), 4)


if __name__ == "__main__":
    main()
