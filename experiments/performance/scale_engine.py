"""The part of `scale.py` that measures the real engine: its workers are calls of one actor that sleep."""

import asyncio
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from blendsearch.engine.ray_engine import RayEngine
from blendsearch.engine.running_request import WorkerHandle
from blendsearch.errors import EngineError
from blendsearch.fitness.evaluator import Outcome, Request, make_request
from blendsearch.pipeline.problem.persistence import record
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.runs.config.schema import EngineConfig
from blendsearch.runs.run import Run

SHORTEST, LONGEST = 2.0, 60.0
"""Seconds of an evaluation."""

GOAL = 1_000
"""Workers that the controller should keep busy."""

RAY_OUTCOMES, TRIES = 1_200, 8


def compute_duration(request: Request) -> float:
    """Compute the seconds of an evaluation: log-uniform between the shortest and the longest."""
    drawn = np.random.default_rng(request.seed).random()
    return float(SHORTEST * (LONGEST / SHORTEST) ** drawn)


class SleepingActor:
    """An actor whose calls sleep for the time of an evaluation, `pace` times as fast."""

    async def start(self) -> tuple[str, int]:
        import ray

        return ray.get_runtime_context().get_node_id(), os.getpid()

    async def evaluate(self, request: Request, pace: float) -> tuple[Outcome, list[str]]:
        await asyncio.sleep(compute_duration(request) / pace)
        return Outcome(request.digest, 0.5, 0.1, 9.0, seed=request.seed), []


class PacedMethod:
    """A method of the actor that is called with a further argument."""

    def __init__(self, method: Any, pace: float) -> None:
        self._method, self._pace = method, pace

    def remote(self, request: Request) -> Any:
        return self._method.remote(request, self._pace)


class SharedWorker:
    """One of the workers that share an actor."""

    def __init__(self, actor: Any, pace: float) -> None:
        self.start, self.evaluate = actor.start, PacedMethod(actor.evaluate, pace)


class SimulatedRayEngine(RayEngine):
    """The real engine, whose workers are calls of one actor; its outcomes come as fast as those of 1,000 workers."""

    actor: Any = None

    def _create_worker(self) -> WorkerHandle:
        if self.actor is None:
            actor = self._ray.remote(SleepingActor)
            self.actor = actor.options(num_cpus=0, max_concurrency=2 * GOAL).remote()
        return WorkerHandle(next(self._worker_numbers), SharedWorker(self.actor, GOAL / self.workers))

    def _kill(self, worker: WorkerHandle) -> None:
        """Leave the shared actor."""


def start_engine(config: EngineConfig, problem: Problem) -> SimulatedRayEngine:
    """Start the engine; a busy machine may need several tries to start Ray."""
    for _ in range(TRIES):
        with suppress(EngineError):
            return SimulatedRayEngine(config, problem.evaluator)
    return SimulatedRayEngine(config, problem.evaluator)


def measure_ray(problem: Problem, workers: int, run: Run) -> dict[str, float]:
    """Measure the engine's work per outcome, and the bytes of the loopback interface."""
    config = problem.config.engine.model_copy(update={"ray": "local", "workers": workers})
    rng = np.random.default_rng(workers)
    cuts = iter(rng.random((workers + RAY_OUTCOMES + 100, problem.structure.maps.channels)) < 0.5)
    outstanding, ended, began = 0, 0, (0.0, 0.0, 0.0, 0)
    engine = start_engine(config, problem)
    engine.start_telemetry(run.name, run.logs)

    def feed() -> None:
        nonlocal outstanding
        while outstanding < workers and ended < RAY_OUTCOMES:
            engine.submit(make_request(next(cuts), "recalibrated", 0))
            outstanding += 1

    try:
        for _ in engine.iter_outcomes(feed):
            outstanding, ended = outstanding - 1, ended + 1
            if ended == RAY_OUTCOMES // 6:  # all workers have started
                began = read_clocks()
            if ended == RAY_OUTCOMES:
                break
        spent = [now - then for now, then in zip(read_clocks(), began, strict=True)]
    finally:
        engine.close()
    count = RAY_OUTCOMES - RAY_OUTCOMES // 6
    return {
        "workers": workers,
        "outcomes_per_second": round(count / spent[2], 1),
        "thread_ms": round(1e3 * spent[0] / count, 3),
        "process_ms": round(1e3 * spent[1] / count, 3),
        "loopback_bytes": round(spent[3] / count),
    }


def read_clocks() -> tuple[float, float, float, int]:
    """Read the processor seconds of this thread and process, the wall clock, and bytes of the loopback interface."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    loopback = next((int(line.split()[1]) for line in lines if line.split()[0] == "lo:"), 0)
    return time.thread_time(), time.process_time(), time.perf_counter(), loopback


def measure_engine(problem: Problem, numbers: list[int], folder: Path) -> dict[str, Any]:
    """Measure the engine for each number of workers, and the bytes of its logs per outcome."""
    run = record(problem, folder, "ray", ["scale"])
    rows = []
    for workers in numbers:
        rows.append(measure_ray(problem, workers, run))
        print(json.dumps(rows[-1]), flush=True)
    logged = sum(path.stat().st_size for path in (run.path / "logs").iterdir())
    return {"ray": rows, "logs_bytes_per_outcome": round(logged / (RAY_OUTCOMES * len(numbers)))}
