"""Evaluations on Ray: long-lived actors that hold model and data, and are sent requests of a few hundred bytes."""

import contextlib
import dataclasses
import os
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from blendsearch.engine.local import failed
from blendsearch.errors import EngineError
from blendsearch.fitness.evaluation import Evaluator, Outcome, Request
from blendsearch.runs.config import EngineConfig


@dataclass
class Running:
    """A request on its way: which attempt it is, on which worker, and since when."""

    asked: Request
    attempt: int
    worker: Any
    since: float


class RayEngine:
    """One actor per GPU share or CPU slot.

    A worker that dies or exceeds the time limit is replaced, and its request tried again elsewhere; after `retries`
    more attempts the request comes back as failed. Evaluations are pure, so one that is repeated does no harm.
    """

    def __init__(self, config: EngineConfig, evaluator: Evaluator) -> None:
        self._config = config
        self._ray, self._ours = _connect(config.ray)
        self._on_gpu = evaluator.device.type == "cuda"
        self.workers = config.workers or self._places()
        # the model as one copy per worker, which may write to its own; image arrays are shared memory, read only
        resting = dataclasses.replace(evaluator, model=evaluator.model.cpu())
        self._payload = self._ray.put(resting)
        evaluator.model.to(evaluator.device)
        self._threads = config.threads or max(1, (os.cpu_count() or 1) // self.workers)
        self._idle: deque[Any] = deque(self._new_worker() for _ in range(self.workers))
        self._queue: deque[tuple[Request, int]] = deque()
        self._running: dict[Any, Running] = {}

    def submit(self, asked: Request) -> None:
        self._queue.append((asked, 0))

    def completed(self) -> Iterator[Outcome]:
        while self._queue or self._running:
            self._dispatch()
            ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=1.0)
            for reference in ready:
                outcome = self._received(reference)
                if outcome is not None:
                    yield outcome
            yield from self._overdue()

    def close(self) -> None:
        self._queue.clear()
        for worker in [*self._idle, *(item.worker for item in self._running.values())]:
            with contextlib.suppress(Exception):
                self._ray.kill(worker)
        self._idle.clear()
        self._running.clear()
        if self._ours:
            self._ray.shutdown()

    def _dispatch(self) -> None:
        while self._queue and self._idle:
            asked, attempt = self._queue.popleft()
            worker = self._idle.popleft()
            self._running[worker.evaluate.remote(asked)] = Running(asked, attempt, worker, time.monotonic())

    def _received(self, reference: Any) -> Outcome | None:
        """The outcome of a finished call; None when it failed and is tried again."""
        item = self._running.pop(reference)
        try:
            outcome: Outcome = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            self._idle.append(item.worker)
            return self._again(item, error.cause if isinstance(error.cause, Exception) else error)
        except self._ray.exceptions.RayError as error:  # the worker, its node or its memory is gone
            self._idle.append(self._new_worker())
            return self._again(item, error)
        self._idle.append(item.worker)
        return outcome

    def _overdue(self) -> Iterator[Outcome]:
        """Kill and replace workers whose evaluation exceeds the time limit."""
        now = time.monotonic()
        for reference, item in list(self._running.items()):
            allowed = self._config.final_timeout if item.asked.fidelity == "final" else self._config.timeout
            if now - item.since > allowed:
                del self._running[reference]
                self._ray.kill(item.worker)
                self._idle.append(self._new_worker())
                limit = TimeoutError(f"not done after {allowed:g} s (engine.timeout, engine.final_timeout)")
                outcome = self._again(item, limit)
                if outcome is not None:
                    yield outcome

    def _again(self, item: Running, error: BaseException) -> Outcome | None:
        if item.attempt < self._config.retries:
            self._queue.append((item.asked, item.attempt + 1))
            return None
        return failed(item.asked, error)

    def _new_worker(self) -> Any:
        options: dict[str, Any] = {"max_restarts": 0, "max_task_retries": 0}
        if self._on_gpu:
            options |= {"num_gpus": self._config.gpus_per_worker, "num_cpus": 0}
        else:
            options |= {"num_cpus": min(self._threads, os.cpu_count() or 1), "num_gpus": 0}
        device = "cuda" if self._on_gpu else "cpu"
        return self._ray.remote(Worker).options(**options).remote(self._payload, self._threads, device)

    def _places(self) -> int:
        """How many workers the cluster has room for."""
        total = self._ray.cluster_resources()
        if self._on_gpu:
            places = int(total.get("GPU", 0) / self._config.gpus_per_worker)
            need = f"{self._config.gpus_per_worker:g} GPU per worker (engine.gpus_per_worker)"
        else:
            places = int(total.get("CPU", 0) / (self._config.threads or 1))
            need = f"{self._config.threads or 1} CPU per worker (engine.threads)"
        if places < 1:
            raise EngineError(f"the cluster has no room for one worker: it offers {dict(total)}, expected {need}")
        return places


class Worker:
    """One actor: an evaluator on its own device."""

    def __init__(self, evaluator: Evaluator, threads: int, device: str) -> None:
        # Ray's OMP_NUM_THREADS does not reach a reused process that has imported torch
        torch.set_num_threads(threads)
        place = torch.device(device)
        self._evaluator = dataclasses.replace(evaluator, model=evaluator.model.to(place), device=place)

    def evaluate(self, asked: Request) -> Outcome:
        return self._evaluator.evaluate(asked)


def _connect(where: str) -> tuple[Any, bool]:
    """The ray module, connected, and whether the connection is ours to close."""
    if where == "local":
        # said in every process we start: since 2.59 it decides whether others may connect
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    if ray.is_initialized():
        return ray, False
    try:
        address = None if where == "local" else where
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray raises a dozen types when there is no cluster
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EngineError(f"no Ray at {where!r}: {reason}; is the cluster up? use local to start one here") from error
    return ray, True
