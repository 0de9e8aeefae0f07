"""Engine that runs one evaluation after the other in this process; the reference for other engines."""

import dataclasses
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator

from torch import nn

from blendsearch.engine.base import submit_nothing
from blendsearch.engine.captured_warnings import capture_warnings
from blendsearch.engine.telemetry import Telemetry
from blendsearch.events import Event
from blendsearch.fitness.evaluator import Evaluator, Outcome, Request, make_failed_outcome
from blendsearch.runs.worker_logs import WorkerLogs
from blendsearch.training.training_store import TrainingStore


class LocalEngine:
    """Evaluates requests while its outcomes are iterated."""

    workers = 1

    def __init__(self, evaluator: Evaluator, retries: int = 0) -> None:
        self._evaluator = evaluator
        self._retries = retries
        self._queue: deque[Request] = deque()
        self._telemetry = Telemetry()

    @property
    def busy_workers(self) -> int:
        return min(1, len(self._queue))

    def submit(self, request: Request) -> None:
        self._queue.append(request)

    def iter_outcomes(self, feed: Callable[[], None] = submit_nothing) -> Iterator[Outcome]:
        feed()
        while self._queue:
            yield self._evaluate(self._queue.popleft())
            feed()

    def attach_store(self, store: TrainingStore) -> None:
        self._evaluator = dataclasses.replace(self._evaluator, store=store)

    def attach_tuned(self, network: nn.Module) -> None:
        self._evaluator = dataclasses.replace(self._evaluator, tuned=network)

    def start_telemetry(self, run: str, logs: WorkerLogs) -> None:
        self._telemetry.logs = logs
        self._telemetry.record_start(0, socket.gethostname(), os.getpid())

    def receive_event(self, event: Event) -> None:
        """Nothing is published."""

    def close(self) -> None:
        self._queue.clear()

    def _evaluate(self, request: Request) -> Outcome:
        for attempt in range(self._retries + 1):
            try:
                with capture_warnings() as messages:
                    outcome = self._evaluator.evaluate(request)
            except Exception as error:  # one candidate must not end the search, whatever it does
                last = attempt == self._retries
                self._telemetry.record_failure(0, "failed", request, error, will_retry=not last)
                if last:
                    return make_failed_outcome(request, error)
            else:
                self._telemetry.record_outcome(0, request, outcome, messages)
                return outcome
        raise AssertionError("unreachable: the last attempt returns")
