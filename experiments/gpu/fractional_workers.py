"""Measure Ray workers that share one card.

    python experiments/gpu/fractional_workers.py [--device cpu --toy]

1, 2, 4 and 8 workers with `engine.gpus_per_worker` of 1, 1/2, 1/4 and 1/8 evaluate ResNet-56 at fidelity
`recalibrated`, in bfloat16: candidates per second, and whether the losses are those of one process.
"""

import time
from typing import Any

from harness import Part, Setting, make_requests, make_setting, run_as_script, select_largest

from blendsearch.engine.base import Engine
from blendsearch.engine.factory import start_engine
from blendsearch.fitness.evaluator import Outcome, Request
from blendsearch.runs.config.schema import EngineConfig

NAME = "fractional_workers"
PRECISION: Any = "bfloat16"
GOAL = 25.0


def measure(part: Part) -> None:
    """Measure all numbers of workers; the goal is that of throughput.py, for one card."""
    part.state["goals"].clear()
    setting = make_setting("resnet56", part.arguments)
    toy = part.arguments.toy
    rates: dict[str, Any] = {}
    for workers in (1,) if toy else (4, 8, 2, 1):
        name = f"{workers} worker{'s' * (workers > 1)}"
        count = 4 if toy else 30 * workers
        found = part.step(name, lambda w=workers, n=count: measure_workers(setting, w, n), needs_ray=True)
        rates[name] = None if found is None else found["candidates_per_second"]
    best = select_largest(rates)
    part.state["fastest"] = best
    part.set_goal("candidates/s of workers on one card", None if best is None else best[1], GOAL, "1/s")


def measure_workers(setting: Setting, workers: int, count: int) -> dict[str, Any]:
    """Start an engine, evaluate once per worker without a clock, then `count` requests with one."""
    on_card = setting.device.type == "cuda"
    config = EngineConfig(ray="local", workers=workers, threads=1, gpus_per_worker=1 / workers if on_card else 1.0)
    evaluator = setting.make_evaluator(16 if len(setting.splits.val) < 500 else 1000, PRECISION)
    requests = make_requests(setting.maps, workers + count)
    expected = evaluator.evaluate(requests[0])
    began = time.perf_counter()
    engine = start_engine(config, evaluator)
    try:
        first = evaluate_all(engine, requests[:workers])
        started = time.perf_counter()
        outcomes = evaluate_all(engine, requests[workers:])
        ended = time.perf_counter()
    finally:
        engine.close()
    failures = [outcome.failure for outcome in outcomes.values() if outcome.failure]
    found = first[expected.digest]
    return {
        "candidates_per_second": len(outcomes) / (ended - started),
        "start_seconds": started - began,
        "failures": failures[:3],
        "difference_of_losses": abs(found.loss - expected.loss),
    }


def evaluate_all(engine: Engine, requests: list[Request]) -> dict[str, Outcome]:
    for request in requests:
        engine.submit(request)
    return {outcome.digest: outcome for outcome in engine.iter_outcomes()}


if __name__ == "__main__":
    run_as_script(__doc__, NAME, measure)
