"""Compare the time to make a candidate's module by slicing with that of Torch-Pruning's copy and step.

    python experiments/performance/surgery_speed.py [MODEL ...]     # torchvision names; default resnet50 densenet121

Both make a narrower copy of the same dense network in the same process, in alternation. blendsearch slices a random
half of every group into a new module. Torch-Pruning copies the network, builds its graph and steps its magnitude pruner
at ratio 0.5 (a copy is needed because its graph can be neither copied nor reused). Prints medians and their ratio, and
writes them to surgery_speed.json beside this file.
"""

import copy
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch_pruning
from torch import nn

from blendsearch.structure.surgery import narrow
from blendsearch.structure.trace import trace_structure
from blendsearch.zoo.factory import build_model

ROUNDS = 5
SHAPE = (3, 224, 224)


def main() -> None:
    results = {name: compare_times(name) for name in sys.argv[1:] or ["resnet50", "densenet121"]}
    print(json.dumps(results, indent=1))
    Path(__file__).with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")


def compare_times(name: str) -> dict[str, float]:
    model = build_model(f"torchvision:{name}").eval()
    start = time.perf_counter()
    structure = trace_structure(model, SHAPE)
    traced = time.perf_counter() - start
    rng = np.random.default_rng(0)
    ours, theirs = [], []
    for _ in range(ROUNDS):
        cut = np.concatenate([rng.permutation(size) < max(1, size // 2) for size in structure.maps.sizes])
        start = time.perf_counter()
        small = narrow(model, structure.maps, cut)
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        other = prune_with_torch_pruning(model)
        theirs.append(time.perf_counter() - start)
    with torch.inference_mode():
        assert small(torch.zeros(1, *SHAPE)).shape == other(torch.zeros(1, *SHAPE)).shape
    ratio = statistics.median(theirs) / statistics.median(ours)
    return {
        "ours_ms": round(1e3 * statistics.median(ours), 1),
        "torch_pruning_ms": round(1e3 * statistics.median(theirs), 1),
        "ratio": round(ratio, 1),
        "our_trace_once_s": round(traced, 2),
    }


def prune_with_torch_pruning(model: nn.Module) -> nn.Module:
    twin = copy.deepcopy(model)
    output = [module for module in twin.modules() if isinstance(module, nn.Linear)][-1]
    pruner = torch_pruning.pruner.MetaPruner(
        twin,
        torch.zeros(1, *SHAPE),
        importance=torch_pruning.importance.MagnitudeImportance(),
        pruning_ratio=0.5,
        ignored_layers=[output],
    )
    pruner.step()
    return twin


if __name__ == "__main__":
    main()
