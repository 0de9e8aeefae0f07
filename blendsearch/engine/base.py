"""Protocol of engines."""

from collections.abc import Callable, Iterator
from typing import Protocol

from torch import nn

from blendsearch.events import Event
from blendsearch.fitness.evaluator import Outcome, Request
from blendsearch.runs.worker_logs import WorkerLogs
from blendsearch.training.training_store import TrainingStore


def submit_nothing() -> None:
    """Submit no further requests: the default `feed` of `Engine.iter_outcomes`."""


class Engine(Protocol):
    """Takes requests and yields one outcome per request, in any order.

    Attributes
    ----------
    workers: number of requests evaluated at the same time; it may change while the engine runs.
    """

    workers: int

    @property
    def busy_workers(self) -> int:
        """Number of workers that are evaluating now."""

    def submit(self, request: Request) -> None:
        """Queue one request."""

    def iter_outcomes(self, feed: Callable[[], None] = submit_nothing) -> Iterator[Outcome]:
        """Yield the outcomes of all submitted requests as they arrive; ends when none is outstanding.

        `feed` is called before every wait and may submit more requests, so that no worker is idle. Outcomes that are
        ready together are yielded without a call of it in between: it stores them in one transaction. A failed
        evaluation is an outcome with its `failure`, never an exception.
        """

    def attach_store(self, store: TrainingStore) -> None:
        """Keep the states of trainings in `store` from now on, from whatever machine they run on."""

    def attach_tuned(self, network: nn.Module) -> None:
        """Slice candidates out of `network` from now on (`Evaluator.tuned`). No request may be outstanding."""

    def start_telemetry(self, run: str, logs: WorkerLogs) -> None:
        """Log the work of workers to `logs` from now on, and label published metrics with the name `run`."""

    def receive_event(self, event: Event) -> None:
        """Receive an event of the search, for published metrics."""

    def close(self) -> None:
        """Release the workers. Outstanding requests are dropped."""
