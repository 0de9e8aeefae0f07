"""Evaluations one after another in this process: the whole product on a laptop, and the measure for other engines."""

import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from blendsearch.engine.base import nothing_more
from blendsearch.engine.captured_warnings import overheard
from blendsearch.engine.telemetry import Watching
from blendsearch.fitness.evaluator import Evaluator, Outcome, Request, failed
from blendsearch.runs.worker_logs import WorkerLogs


class LocalEngine:
    """Evaluates when its outcomes are asked for."""

    workers = 1

    def __init__(self, evaluator: Evaluator, retries: int = 0) -> None:
        self._evaluator = evaluator
        self._retries = retries
        self._queue: deque[Request] = deque()
        self._watching = Watching()

    @property
    def busy(self) -> int:
        return min(1, len(self._queue))

    def submit(self, asked: Request) -> None:
        self._queue.append(asked)

    def completed(self, feed: Callable[[], None] = nothing_more) -> Iterator[Outcome]:
        feed()
        while self._queue:
            yield self._evaluate(self._queue.popleft())
            feed()

    def watch(self, run: str, logs: WorkerLogs) -> None:
        self._watching.logs = logs
        self._watching.started(0, socket.gethostname(), os.getpid())

    def heard(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Nothing is published."""

    def close(self) -> None:
        self._queue.clear()

    def _evaluate(self, asked: Request) -> Outcome:
        for attempt in range(self._retries + 1):
            try:
                with overheard() as messages:
                    outcome = self._evaluator.evaluate(asked)
            except Exception as error:  # one candidate must not end the search, whatever it does
                last = attempt == self._retries
                self._watching.failed(0, "failed", asked, error, again=not last)
                if last:
                    return failed(asked, error)
            else:
                self._watching.evaluated(0, asked, outcome, messages)
                return outcome
        raise AssertionError("unreachable: the last attempt returns")
