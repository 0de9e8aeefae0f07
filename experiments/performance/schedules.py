"""Simulate both schedules with uneven evaluations on 2 to 64 workers: busy time, duration and loss.

    python experiments/performance/schedules.py [--out schedules.json]

The search is real: its loop, its optimizers, its store. Time is simulated: an engine with a virtual clock assigns each
evaluation a duration between 2 and 20 s (log-uniform, drawn from the cut's seed, so that a cut takes as long under
either schedule), starts it when a worker is free, and returns the earliest. The controller's processor seconds
(optimizer, decoding, store) are added to the same clock; no worker receives a request meanwhile.
Losses replace accuracy: each group has preferred channels and a weight, and the loss is the weighted square of missing
ones. They show how much a schedule learns, not the loss of a real network.

Busy: the workers' time between the start of the first evaluation and the end of the last one (`busy`), or until the
last request (`busy_while_asking`; the rest is the tail that every finite search has).
"""

import argparse
import heapq
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
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.runs.config.loading import parse_config

SHORTEST, LONGEST = 2.0, 20.0
PER_WORKER, FEWEST = 50, 400  # evaluations: so many per worker, and never fewer
CASES = [("cma", workers, 3 if workers < 32 else 1) for workers in (2, 4, 8, 16, 32, 64)]
"""Optimizer, workers, and number of seeds."""


class SimulatedEngine:
    """An engine with simulated `workers` and clock; `began` and `ended` hold the times of every evaluation."""

    def __init__(self, workers: int, wish: "ChannelPreferences") -> None:
        self.workers, self.wish = workers, wish
        self.now, self.controller, self._left = 0.0, 0.0, time.process_time()
        self._queue: list[Request] = []
        self._out: list[tuple[float, int, Request]] = []
        self._submitted = 0
        self.began: list[float] = []
        self.ended: list[float] = []
        self.losses: list[float] = []

    @property
    def busy_workers(self) -> int:
        return len(self._out)

    def submit(self, asked: Request) -> None:
        self._queue.append(asked)

    def iter_outcomes(self, feed: Callable[[], None] = submit_nothing) -> Iterator[Outcome]:
        while True:
            feed()
            spent = time.process_time() - self._left
            self.now, self.controller = self.now + spent, self.controller + spent
            self._start()
            if not self._out:
                return
            ends, _, asked = heapq.heappop(self._out)
            self.now = max(self.now, ends)
            loss = self.wish.loss(asked.unpack_cut())
            if asked.fidelity != "raw" and asked.split == "val":  # not the dense network, nor test images
                self.began.append(ends - compute_duration(asked))
                self.ended.append(ends)
                self.losses.append(loss)
            self._left = time.process_time()
            yield Outcome(asked.digest, loss, loss / 2, compute_duration(asked), seed=asked.seed)

    def close(self) -> None:
        """Release nothing."""

    def _start(self) -> None:
        while self._queue and len(self._out) < self.workers:
            asked = self._queue.pop(0)
            self._submitted += 1
            heapq.heappush(self._out, (self.now + compute_duration(asked), self._submitted, asked))


class ChannelPreferences:
    """Preferred channels of a simulated network, in groups that begin at `offsets`."""

    def __init__(self, channels: int, offsets: np.ndarray) -> None:
        rng = np.random.default_rng(0)
        self.offsets, self.worth = offsets, rng.random(channels)
        self.weight = rng.lognormal(0, 1, len(offsets))

    def loss(self, kept: np.ndarray) -> float:
        whole = np.add.reduceat(self.worth, self.offsets)
        missing = 1 - np.add.reduceat(self.worth * kept, self.offsets) / whole
        return float((self.weight * missing**2).sum() / self.weight.sum())


def compute_duration(asked: Request) -> float:
    """Compute the seconds of an evaluation: log-uniform between the shortest and the longest."""
    drawn = np.random.default_rng(asked.seed).random()
    return float(SHORTEST * (LONGEST / SHORTEST) ** drawn)


def measure_engine(engine: SimulatedEngine) -> dict[str, float]:
    began, ended = np.array(engine.began), np.array(engine.ended)
    first, last_begun, last = began.min(), began.max(), ended.max()
    within = np.minimum(ended, last_begun) - began
    return {
        "busy": float((ended - began).sum() / (engine.workers * (last - first))),
        "busy_while_asking": float(within.sum() / (engine.workers * (last_begun - first))),
        "seconds": float(last - first),
        "controller_ms": 1000 * engine.controller / len(began),
        "best_loss": float(min(engine.losses)),
    }


def prepare_problem(folder: str) -> Problem:
    """Prepare a ResNet-56 with random weights: its scores do not matter here."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        images = rng.integers(0, 256, (200, 32, 32, 3), dtype=np.uint8)
        np.savez(Path(folder) / f"{split}.npz", x=images, y=np.arange(200) % 10)
    config = parse_config(
        {
            "model": {"factory": "cifar_resnet", "arguments": {"depth": 56}, "train": {"epochs": 0.01}},
            "data": {"dataset": "npz", "train": f"{folder}/train.npz", "test": f"{folder}/test.npz"},
            "criteria": {"pool": ["l1", "l2", "fpgm", "bn_gamma", "apoz", "taylor_gate"], "images": 32},
            "budget": {"macs": 0.5},
        },
        "schedules",
    )
    return build_problem(config, ignore_event)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        problem = prepare_problem(folder)
        maps = problem.structure.maps
        wish = ChannelPreferences(maps.channels, maps.offsets[:-1])
        for optimizer, workers, seeds in CASES:
            evaluations = max(FEWEST, PER_WORKER * workers)
            # generations of 24, the default, and generations at least as large as the cluster
            cases = [("steady", 24), *(("generational", size) for size in sorted({24, max(24, workers)}))]
            for schedule, population in cases:
                found = []
                for seed in range(seeds):
                    fields = {"schedule": schedule, "population": population, "evaluations": evaluations}
                    fields["optimizer"] = optimizer
                    tree = problem.config.model_dump(mode="json", exclude_none=True) | {"seed": seed}
                    tree["search"] |= fields
                    own = problem.__class__(
                        parse_config(tree, "schedules"),
                        *(problem.structure, problem.table, problem.clusters, problem.decoder, problem.evaluator),
                    )
                    run = record(
                        own, Path(folder), f"{optimizer}-{schedule}-{workers}-{population}-{seed}", ["schedules"]
                    )
                    engine = SimulatedEngine(workers, wish)
                    search(run, own, engine, ignore_event)
                    assert len(engine.ended) == evaluations
                    found.append(measure_engine(engine))
                means = {name: round(float(np.mean([item[name] for item in found])), 4) for name in found[0]}
                facts = {"optimizer": optimizer, "schedule": schedule, "workers": workers, "population": population}
                results.append({**facts, "evaluations": evaluations, "seeds": seeds, **means})
                print(json.dumps(results[-1]), flush=True)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
