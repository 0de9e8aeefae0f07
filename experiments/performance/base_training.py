"""Measure steps of base training in channels-last memory, relative to channels first.

    python experiments/performance/base_training.py [--steps 1] [--repeats 20] [--out base_training.json]

Trains a ResNet-20 with random weights on random images of 32 px: one forward and backward pass and an update of SGD
with momentum per step of 64 images. Both layouts take turns, each first in every second repeat. Prints the least
processor milliseconds per step of one thread and their ratio, and the median and quartiles of the ratios of the
repeats: where the quartiles are on one side of 1, so is the result.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from machine import describe_machine
from torch import nn

from blendsearch.training.device import convert_to_channels_last
from blendsearch.zoo.factory import build_model

NETWORKS: dict[str, dict[str, int]] = {"cifar_resnet": {"depth": 20}}
BATCH = 64


def measure_network(factory: str, steps: int, repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    x, y = torch.randn(BATCH, 3, 32, 32), torch.randint(0, 10, (BATCH,))
    first = build_model(factory, NETWORKS[factory])
    last = convert_to_channels_last(build_model(factory, NETWORKS[factory]))
    cases = {"first": (first, x), "last": (last, x.to(memory_format=torch.channels_last))}
    found: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(repeats + 1):
        for name in sorted(cases, reverse=bool(repeat % 2)):
            spent = time_steps(*cases[name], y, steps)
            if repeat:  # the first one sets up the kernels
                found[name].append(1e3 * spent / steps)
    ratios = np.divide(found["last"], found["first"])
    return {
        "channels_first_ms": round(min(found["first"]), 1),
        "channels_last_ms": round(min(found["last"]), 1),
        "ratio": round(min(found["last"]) / min(found["first"]), 3),
        "median_ratio": round(float(np.median(ratios)), 3),
        "quartiles": [round(float(end), 3) for end in np.quantile(ratios, (0.25, 0.75))],
    }


def time_steps(network: nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int) -> float:
    """Measure processor seconds of the steps."""
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
    network.train()
    start = time.process_time()
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    machine = describe_machine()
    results: dict[str, Any] = {"machine": machine}
    for factory in NETWORKS:
        results[factory] = measure_network(factory, arguments.steps, arguments.repeats)
        print(f"{factory}: {json.dumps(results[factory])}", flush=True)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
