"""Check that a worker survives a candidate that exceeds the card's memory.

    python experiments/gpu/out_of_memory.py [--device cpu --toy]

The process gets a little more memory than it holds, and evaluates a batch that does not fit. The outcome is a failure,
and the next evaluation gives the numbers of the first. Without a card, the network raises the exception itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import isclose
from typing import Any

import torch
from harness import Part, Setting, make_requests, make_setting, run_as_script
from torch import nn

from blendsearch.engine.local import LocalEngine
from blendsearch.engine.ray_worker import Worker
from blendsearch.fitness.evaluator import Outcome, Request
from blendsearch.runs.config.schema import EngineConfig
from blendsearch.training.schedule import Schedule

NAME = "out_of_memory"
ROOM = 64 << 20
"""Bytes that the process may allocate beyond what it holds."""


def measure(part: Part) -> None:
    """Check a worker, an engine in this process, and on a card an engine on Ray."""
    part.state["goals"].clear()
    setting = make_setting("resnet50", part.arguments)
    checks: dict[str, Any] = {"a worker": check_worker, "an engine in this process": check_local_engine}
    if setting.device.type == "cuda":
        checks["an engine on Ray"] = check_ray_engine
    found = [
        part.step(name, lambda check=check: check(setting), needs_ray=check is check_ray_engine)
        for name, check in checks.items()
    ]
    survived = [bool(item["survives"]) for item in found if item is not None]
    part.set_goal("survives a lack of memory", sum(survived) if survived else None, len(checks))


@contextmanager
def lack_memory(setting: Setting) -> Iterator[None]:
    """Let allocations of more than `ROOM` fail inside; on a CPU, every forward pass of a batch fails."""
    if setting.device.type == "cuda":
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(setting.device).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(setting.device) + ROOM) / total)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
            torch.cuda.empty_cache()
        return

    def refuse(module: nn.Module, inputs: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory (simulated)")

    hook = nn.modules.module.register_module_forward_pre_hook(refuse)
    try:
        yield
    finally:
        hook.remove()


def check_worker(setting: Setting) -> dict[str, Any]:
    """Check that a worker raises, frees its memory, and evaluates the next request."""
    device = setting.device
    worker = Worker(replace(setting.make_evaluator(100), device=device), torch.get_num_threads(), device.type, 1.0)
    (request,) = make_requests(setting.maps, 1)
    before, error = worker.evaluate(request)[0], ""
    with lack_memory(setting):
        try:
            worker.evaluate(request)
        except torch.cuda.OutOfMemoryError as raised:
            error = type(raised).__name__
    after = worker.evaluate(request)[0]
    return {"error": error, "survives": bool(error) and isclose(after.loss, before.loss, rel_tol=1e-4)}


def check_local_engine(setting: Setting) -> dict[str, Any]:
    """Check that an engine makes a failed outcome, and evaluates the next request."""
    engine = LocalEngine(setting.make_evaluator(100))
    (request,) = make_requests(setting.maps, 1)
    before = _evaluate(engine, request)
    with lack_memory(setting):
        failed = _evaluate(engine, request)
    after = _evaluate(engine, request)
    survives = "memory" in failed.failure and isclose(after.loss, before.loss, rel_tol=1e-4)
    return {"failure": failed.failure[:100], "survives": survives}


def check_ray_engine(setting: Setting) -> dict[str, Any]:
    """Check that a Ray worker with a small share of the card fails a fine-tune that does not fit, and survives.

    The batches of evaluations fit, else the worker would not start: it evaluates one before its first request.
    """
    from blendsearch.engine.ray_engine import RayEngine

    evaluator = setting.make_evaluator(16)
    large = replace(evaluator.recipe, tuning=Schedule(1, 0.01, len(setting.splits.train)))
    config = EngineConfig(ray="local", workers=1, gpus_per_worker=0.05, retries=0)
    engine = RayEngine(config, replace(evaluator, recipe=large))
    try:
        failed = _evaluate(engine, make_requests(setting.maps, 1, "tuned")[0])
        after = _evaluate(engine, make_requests(setting.maps, 1)[0])
    finally:
        engine.close()
    survives = "memory" in failed.failure and not after.failure
    return {"failure": failed.failure[:100], "next": after.failure[:100], "survives": survives}


def _evaluate(engine: Any, request: Request) -> Outcome:
    engine.submit(request)
    (outcome,) = engine.iter_outcomes()
    return outcome  # type: ignore[no-any-return]


if __name__ == "__main__":
    run_as_script(__doc__, NAME, measure)
