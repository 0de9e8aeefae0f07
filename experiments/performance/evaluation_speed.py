"""Measure the gain of channels-last memory and of folded batch-norms in forward passes of an evaluation.

    python experiments/performance/evaluation_speed.py CONFIG [--images 500] [--repeats 5] [--out FILE] [--set F=V ...]

Evaluates the network of CONFIG's equal blend on some of its validation images in four ways, in alternation, and prints
the shortest processor time of each and its ratio to the plain way.
"""

import argparse
import json
import time
from contextlib import nullcontext
from itertools import product
from pathlib import Path

import torch
from torch import nn

from blendsearch.events import ignore_event
from blendsearch.fitness.bn_folding import find_foldable_pairs, fold_batch_norms
from blendsearch.pipeline.problem.builder import build_problem
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.runs.config.loading import load_config
from blendsearch.structure.surgery import narrow
from blendsearch.training.device import autocast

LAYOUTS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    few = ["criteria.pool=[l1]", "criteria.images=64"]
    problem = build_problem(load_config(arguments.config, [*few, *arguments.overrides]), ignore_event)
    cut = problem.decoder.decode(problem.decoder.space.make_equal_blend())
    networks = {
        name: narrow(problem.model, problem.structure.maps, cut).eval().to(memory_format=layout)
        for name, layout in LAYOUTS.items()
    }
    ways = list(product(LAYOUTS, ("batch-norms apart", "batch-norms folded")))
    seconds = {way: float("inf") for way in ways}
    for _ in range(arguments.repeats):
        for way in ways:
            spent = time_evaluation(problem, networks[way[0]], way[1] == "batch-norms folded", arguments.images)
            seconds[way] = min(seconds[way], spent)
    plain = seconds[ways[0]]
    rows = [{"layout": way[0], "norms": way[1], "seconds": seconds[way], "ratio": seconds[way] / plain} for way in ways]
    for row in rows:
        print(f"{row['layout']:<16}{row['norms']:<20}{row['seconds']:>8.3f} s{row['ratio']:>7.2f}")
    facts = {"config": arguments.config.name, "images": arguments.images, "precision": problem.config.fitness.precision}
    arguments.out.write_text(json.dumps({**facts, "ways": rows}, indent=1) + "\n")


def time_evaluation(problem: Problem, network: nn.Module, fold: bool, images: int) -> float:
    """Measure processor seconds of one pass over the images."""
    splits, device = problem.splits, problem.evaluator.device
    size = problem.config.fitness.batch_size
    given = list(splits.iter_batches(splits.val, batch_size=size, device=device, limit=images))
    pairs = find_foldable_pairs(problem.model, given[0][0][:1]) if fold else ()
    start = time.process_time()
    with fold_batch_norms(network, pairs) if fold else nullcontext(), torch.inference_mode():
        for x, _ in given:
            with autocast(device, problem.config.fitness.precision):
                network(x)
    return time.process_time() - start


if __name__ == "__main__":
    main()
