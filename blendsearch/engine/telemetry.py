"""What an engine tells of its work: a line in a worker's log, and a figure for Ray's metrics where there are any."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from blendsearch.fitness.evaluator import Outcome, Request
from blendsearch.runs.worker_logs import WorkerLogs

if TYPE_CHECKING:
    from blendsearch.engine.ray_metrics import Metrics

LONGEST_TRACE = 4000
"""Letters of a trace that are kept, the last ones."""


class Watching:
    """Tells nothing until it has `logs`, and `metrics`."""

    logs: WorkerLogs | None = None
    metrics: "Metrics | None" = None

    def started(self, worker: int, node: str, process: int) -> None:
        self._line(worker, "started", {"node": node, "process": process})

    def evaluated(self, worker: int, asked: Request, outcome: Outcome, messages: Sequence[str]) -> None:
        numbers = {"seconds": outcome.seconds, "loss": _finite(outcome.loss), "error": _finite(outcome.error)}
        facts = {**_facts(asked), **numbers, "failure": outcome.failure, "messages": list(messages)}
        self._line(worker, "evaluated", facts)
        if self.metrics is not None:
            self.metrics.ended("failed" if outcome.failure else "done", asked.fidelity, outcome.seconds)

    def failed(self, worker: int, event: str, asked: Request, error: BaseException, *, again: bool) -> None:
        """`event` is failed, killed or lost; `again`: whether the request is tried once more."""
        trace = "" if event != "failed" else _trace(error)
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0][:500]
        self._line(worker, event, {**_facts(asked), "reason": reason, "again": again, "trace": trace})
        if self.metrics is not None:
            self.metrics.ended("retried" if again else "failed")

    def load(self, queue: int, running: int, workers: int) -> None:
        if self.metrics is not None:
            self.metrics.load(queue, running, workers)

    def heard(self, kind: str, facts: Mapping[str, Any]) -> None:
        if self.metrics is not None:
            self.metrics.heard(kind, facts)

    def _line(self, worker: int, event: str, facts: Mapping[str, Any]) -> None:
        if self.logs is not None:
            self.logs.write(worker, event, **facts)


def _facts(asked: Request) -> dict[str, Any]:
    return {"digest": asked.digest, "fidelity": asked.fidelity, "split": asked.split, "seed": asked.seed}


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _trace(error: BaseException) -> str:
    """The trace of what a worker raised: as Ray brings it along, or our own."""
    import traceback

    brought = getattr(error, "traceback_str", "")
    return str(brought or "".join(traceback.format_exception(error)))[-LONGEST_TRACE:]
