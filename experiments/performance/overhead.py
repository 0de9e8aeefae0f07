"""Measure the cost of a search outside its evaluations: per candidate, and relative to 400 evaluations of one second.

    python experiments/performance/overhead.py [--out overhead.json]

Runs whole searches of a ResNet-56 (random weights; scores and losses do not matter here) with an engine that answers at
once. All measured time is spent in decoding, the optimizer, the store, checkpoints and progress. Reports processor
seconds of this process, which exclude other work on the machine, and wall seconds.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from blendsearch.engine.base import submit_nothing
from blendsearch.events import ignore_event
from blendsearch.fitness.evaluator import Outcome, Request
from blendsearch.pipeline.loop import search
from blendsearch.pipeline.problem.builder import build_problem
from blendsearch.pipeline.problem.persistence import record
from blendsearch.runs.config.loading import parse_config

EVALUATIONS, SECONDS_EACH = 400, 1.0
CASES = [
    ("cma, population 24", {"population": 24, "evaluations": EVALUATIONS}),
    ("nsga2 group by group, population 24", {"population": 24, "evaluations": EVALUATIONS, "blend": "group"}),
    ("cma, population 500", {"population": 500, "evaluations": 3000}),
    ("nsga2 group by group, population 500", {"population": 500, "evaluations": 3000, "blend": "group"}),
]


class InstantEngine:
    """An engine whose evaluations take no time: the loss counts missing channels of a fixed preference."""

    workers = 1
    busy_workers = 0

    def __init__(self) -> None:
        self._queue: list[Request] = []

    def submit(self, asked: Request) -> None:
        self._queue.append(asked)

    def iter_outcomes(self, feed: Callable[[], None] = submit_nothing) -> Iterator[Outcome]:
        while True:
            feed()
            if not self._queue:
                return
            asked = self._queue.pop()
            cut = asked.unpack_cut()
            wish = np.random.default_rng(0).random(len(cut))
            loss = 1 - float(wish[cut].sum() / wish.sum())
            yield Outcome(asked.digest, loss, loss / 2, 0.0, seed=asked.seed)

    def close(self) -> None:
        """Release nothing."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        for split in ("train", "test"):
            images = rng.integers(0, 256, (200, 32, 32, 3), dtype=np.uint8)
            np.savez(Path(folder) / f"{split}.npz", x=images, y=np.arange(200) % 10)
        for name, settings in CASES:
            config = parse_config(
                {
                    "model": {"factory": "cifar_resnet", "arguments": {"depth": 56}, "train": {"epochs": 0.01}},
                    "data": {"dataset": "npz", "train": f"{folder}/train.npz", "test": f"{folder}/test.npz"},
                    "criteria": {"pool": ["l1", "l2", "fpgm", "bn_gamma", "apoz", "taylor_gate"], "images": 32},
                    "budget": {"macs": 0.5},
                    "search": settings,
                },
                "overhead",
            )
            problem = build_problem(config, ignore_event)
            run = record(problem, Path(folder), f"case-{len(results)}", ["overhead"])
            wall, own = time.perf_counter(), time.process_time()
            search(run, problem, InstantEngine(), ignore_event)
            own, wall = time.process_time() - own, time.perf_counter() - wall
            each = own / settings["evaluations"]
            results.append(
                {
                    "case": name,
                    "evaluations": settings["evaluations"],
                    "processor_ms_per_candidate": 1000 * each,
                    "wall_ms_per_candidate": 1000 * wall / settings["evaluations"],
                    "share_of_one_second_evaluations": each / (SECONDS_EACH + each),
                }
            )
            print(json.dumps(results[-1]), flush=True)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
