"""Telemetry of an engine: a line in a worker's log per event, and Ray's metrics if there are any."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from blendsearch.errors import format_error
from blendsearch.events import Event
from blendsearch.fitness.evaluator import Outcome, Request
from blendsearch.runs.worker_logs import WorkerLogs

if TYPE_CHECKING:
    from blendsearch.engine.ray_metrics import Metrics

MAX_TRACE_LENGTH = 4000
"""Number of characters kept of a traceback, from its end."""


class Telemetry:
    """Records nothing until it has `logs`, and `metrics`."""

    logs: WorkerLogs | None = None
    metrics: "Metrics | None" = None

    def record_start(self, worker: int, node: str, process: int) -> None:
        self._write_line(worker, "started", {"node": node, "process": process})

    def record_outcome(self, worker: int, request: Request, outcome: Outcome, messages: Sequence[str]) -> None:
        numbers = {
            "seconds": outcome.seconds,
            "loss": _replace_nonfinite(outcome.loss),
            "error": _replace_nonfinite(outcome.error),
        }
        facts = {**_describe_request(request), **numbers, "failure": outcome.failure, "messages": list(messages)}
        self._write_line(worker, "evaluated", facts)
        if self.metrics is not None:
            self.metrics.record_evaluation("failed" if outcome.failure else "done", request.fidelity, outcome.seconds)

    def record_failure(
        self, worker: int, event: str, request: Request, error: BaseException, *, will_retry: bool
    ) -> None:
        """Record a failed attempt. `event` is failed, killed or lost; `will_retry` is True if another attempt
        follows.
        """
        trace = "" if event != "failed" else _format_trace(error)
        reason = format_error(error)
        self._write_line(
            worker, event, {**_describe_request(request), "reason": reason, "again": will_retry, "trace": trace}
        )
        if self.metrics is not None:
            self.metrics.record_evaluation("retried" if will_retry else "failed")

    def record_load(self, queue: int, running: int, workers: int) -> None:
        if self.metrics is not None:
            self.metrics.record_load(queue, running, workers)

    def receive_event(self, event: Event) -> None:
        if self.metrics is not None:
            self.metrics.receive_event(event)

    def _write_line(self, worker: int, event: str, facts: Mapping[str, object]) -> None:
        if self.logs is not None:
            self.logs.write(worker, event, **facts)


def _describe_request(request: Request) -> dict[str, object]:
    return {"digest": request.digest, "fidelity": request.fidelity, "split": request.split, "seed": request.seed}


def _replace_nonfinite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _format_trace(error: BaseException) -> str:
    """Return the traceback of a worker's error, as formatted by Ray or here."""
    import traceback

    ray_trace = getattr(error, "traceback_str", "")
    return str(ray_trace or "".join(traceback.format_exception(error)))[-MAX_TRACE_LENGTH:]
