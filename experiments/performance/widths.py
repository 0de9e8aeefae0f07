"""Measure the latency of networks at 50 % of their MACs, by the multiples that widths are rounded to.

    python experiments/performance/widths.py [NETWORK ...]    # default: mobilenet_v2 efficientnet_b0, of torchvision

Weights are random, since latency does not depend on them. Each setting of `budget.round_to` allocates half of the MACs
by three sets of shares: uniform, and two random ones as a search draws them. The dense network and all pruned ones run
one image of 224 x 224 in turns, in torch and in ONNX Runtime, on one thread. A pass is timed by the processor time of
its thread, which excludes other processes, after an untimed pass that loads the weights into the caches. Prints the
ratio to the dense network of each pruned one, by medians, and writes them to widths.json beside this file.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from blendsearch.blend.allocation import RoundTo, allocate, make_widths
from blendsearch.fitness.onnx_runtime import OnnxSession, convert_to_onnx
from blendsearch.structure.surgery import narrow
from blendsearch.structure.trace import Structure, trace_structure
from blendsearch.zoo.factory import build_model

NETWORKS = ("mobilenet_v2", "efficientnet_b0")
SETTINGS: tuple[RoundTo, ...] = (1, 4, 8, 16, "auto")
SHAPE = (3, 224, 224)
BUDGET, RANDOM_SHARES, SPREAD = 0.5, 2, 0.5
ROUNDS = {"torch": 9, "onnxruntime": 21}

Pass = Callable[[], Any]


def main() -> None:
    torch.set_num_threads(1)
    path = Path(__file__).with_suffix(".json")
    found = json.loads(path.read_text()) if path.exists() else {}
    for name in sys.argv[1:] or NETWORKS:
        found[name] = measure_network(name)
        print(json.dumps({name: found[name]}, indent=1))
        path.write_text(json.dumps(found, indent=1) + "\n")


def measure_network(name: str) -> dict[str, Any]:
    torch.manual_seed(0)
    model = build_model(f"torchvision:{name}").eval()
    structure = trace_structure(model, SHAPE)
    networks, macs = prune(model, structure)
    load, images = os.getloadavg()[0], torch.randn(1, *SHAPE)
    found: dict[str, Any] = {"dense_ms": {}}
    for runtime, make in (("torch", make_torch_pass), ("onnxruntime", make_onnx_pass)):
        seconds = time_in_turns({key: make(network, images) for key, network in networks.items()}, ROUNDS[runtime])
        dense = seconds.pop("dense")
        found["dense_ms"][runtime] = round(1e3 * dense, 2)
        for key, value in seconds.items():
            place = found.setdefault(f"round_to {key.split()[0]}", {"macs": macs[key.split()[0]]})
            place.setdefault(runtime, []).append(round(value / dense, 3))
    return {**found, "load average and cores": [round(load, 1), os.cpu_count()]}


def prune(model: nn.Module, structure: Structure) -> tuple[dict[str, nn.Module], dict[str, list[float]]]:
    """Return the dense network and the pruned ones by setting and shares, and the pruned ones' ratios of MACs."""
    sizes, oracle, rng = structure.maps.sizes, structure.oracle, np.random.default_rng(0)
    shares = [np.zeros(len(sizes)), *(SPREAD * rng.uniform(-1, 1, (RANDOM_SHARES, len(sizes))))]
    networks, macs = {"dense": model}, {str(setting): [] for setting in SETTINGS}
    for setting in SETTINGS:
        allowed = make_widths(sizes, 2, 0.05, setting, BUDGET)
        for number, share in enumerate(shares):
            counts = allocate(oracle, allowed, {"macs": BUDGET}, share)
            cut = np.concatenate([np.arange(size) < kept for size, kept in zip(sizes, counts, strict=True)])
            networks[f"{setting} {number}"] = narrow(model, structure.maps, cut).eval()
            macs[str(setting)].append(round(float(oracle.compute_ratio("macs", counts)), 4))
    return networks, macs


def make_torch_pass(network: nn.Module, images: torch.Tensor) -> Pass:
    return lambda: network(images)


def make_onnx_pass(network: nn.Module, images: torch.Tensor) -> Pass:
    session, array = OnnxSession(convert_to_onnx(network, images), threads=1), images.numpy()
    return lambda: session(array)


def time_in_turns(passes: Mapping[str, Pass], rounds: int) -> dict[str, float]:
    """Time all passes `rounds` times in turns; return the median seconds of each."""
    seconds: dict[str, list[float]] = {key: [] for key in passes}
    with torch.inference_mode():
        for _ in range(rounds):
            for key, run in passes.items():
                run()
                start = time.thread_time()
                run()
                seconds[key].append(time.thread_time() - start)
    return {key: float(np.median(values)) for key, values in seconds.items()}


if __name__ == "__main__":
    main()
