"""What every engine is, and how one is chosen."""

from collections.abc import Callable, Iterator
from typing import Protocol

from blendsearch.events import Event
from blendsearch.fitness.evaluator import Outcome, Request
from blendsearch.runs.worker_logs import WorkerLogs


def submit_nothing() -> None:
    """What feeds an engine that is to do no more than what was submitted."""


class Engine(Protocol):
    """Takes requests, gives back outcomes in any order, each submitted request once.

    Attributes
    ----------
    workers: how many requests are worked on at a time; it may change while the engine runs.
    """

    workers: int

    @property
    def busy_workers(self) -> int:
        """Workers that are evaluating now."""

    def submit(self, request: Request) -> None:
        """Queue one request."""

    def iter_outcomes(self, feed: Callable[[], None] = submit_nothing) -> Iterator[Outcome]:
        """The outcomes of all submitted requests as they come; ends when none is outstanding.

        `feed` is called before every wait and may submit more, so that no worker waits for what is still out.
        A request that cannot be evaluated comes back as an outcome with its `failure`, never as an exception.
        """

    def start_telemetry(self, run: str, logs: WorkerLogs) -> None:
        """From now on write down in `logs` what workers do; figures that are published bear the name `run`."""

    def receive_event(self, event: Event) -> None:
        """What the search reports of itself, for the figures that are published."""

    def close(self) -> None:
        """Let go of workers. Outstanding requests are dropped."""
