"""Measure the cost of an evaluation relative to bare forward passes of the same network over the same images.

    python experiments/performance/evaluation_cost.py [--images 256] [--repeats 3] [--out evaluation_cost.json]

A ResNet-56 with random weights, cut to about half of its multiply-accumulates, on random images of 32 px. An
evaluation cuts, recalibrates batch-norms on half as many images, and evaluates. The bare passes are those that it
needs: over the recalibration images with batch statistics, over the others with folded batch-norms, both in
channels-last memory and from batches that are tensors already. Prints the least processor seconds of both, in
alternation, and the ratio.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from machine import describe_machine
from torch import Tensor, nn

from blendsearch.data.split import ArraySplit
from blendsearch.data.splits import Splits
from blendsearch.fitness.bn_folding import find_foldable_pairs, fold_batch_norms
from blendsearch.fitness.evaluator import Evaluator, make_request
from blendsearch.structure.groups import Cut
from blendsearch.structure.surgery import narrow
from blendsearch.structure.trace import trace_structure
from blendsearch.training.device import convert_to_channels_last
from blendsearch.training.recovery import Recipe
from blendsearch.training.schedule import Schedule
from blendsearch.zoo.factory import build_model

BATCH, KEPT = 64, 0.7


def make_evaluator(images: int) -> tuple[Evaluator, Cut]:
    rng = np.random.default_rng(0)
    split = ArraySplit(rng.integers(0, 256, (images, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, images))
    splits = Splits(split, split, split, 10, np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32), (), "")
    model = build_model("cifar_resnet", {"depth": 56}).eval()
    maps = trace_structure(model, (3, 32, 32)).maps
    recipe = Recipe(images // 2, BATCH, Schedule(1, 0.01), Schedule(1, 0.01))
    cut = np.concatenate([rng.permutation(size) < round(KEPT * size) for size in maps.sizes])
    return Evaluator(model, maps, splits, recipe, torch.device("cpu")), cut


def time_bare_passes(network: nn.Module, batches: list[Tensor], count: int, example: Tensor) -> float:
    """Measure processor seconds of the passes of an evaluation: `count` batches in training mode, all in evaluation."""
    pairs = find_foldable_pairs(network.eval(), example)
    start = time.process_time()
    with torch.inference_mode():
        network.train()
        for x in batches[:count]:
            network(x)
        network.eval()
        with fold_batch_norms(network, pairs):
            for x in batches:
                network(x)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    evaluator, cut = make_evaluator(arguments.images)
    request = make_request(cut, "recalibrated", 0)
    evaluator.evaluate(request)
    network = convert_to_channels_last(narrow(evaluator.model, evaluator.maps, cut))
    given = evaluator.splits.iter_batches(evaluator.splits.val, batch_size=BATCH, device=evaluator.device)
    batches = [x.to(memory_format=torch.channels_last) for x, _ in given]
    evaluations, bare = [], []
    for _ in range(arguments.repeats):
        start = time.process_time()
        evaluator.evaluate(request)
        evaluations.append(time.process_time() - start)
        bare.append(time_bare_passes(network, batches, len(batches) // 2, batches[0][:1]))
    machine = describe_machine()
    results = {
        "machine": machine,
        "images": arguments.images,
        "evaluation_seconds": round(min(evaluations), 3),
        "bare_passes_seconds": round(min(bare), 3),
        "ratio": round(min(evaluations) / min(bare), 3),
    }
    print(json.dumps(results, indent=1))
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
