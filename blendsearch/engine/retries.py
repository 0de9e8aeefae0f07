"""Retries of requests on a cluster: after lost workers, lost nodes and errors, up to a number of attempts."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from blendsearch.engine.telemetry import Telemetry
from blendsearch.errors import EngineError
from blendsearch.fitness.evaluator import Outcome, Request, make_failed_outcome

MAX_LOST_NODES = 10
"""Nodes that may die under one request before the loss counts as an attempt."""

UNREACHABLE_SECONDS = 30.0
"""Time for which a worker may be unreachable on a living node before it counts as an attempt. Ray takes about half
of it to detect a killed node.
"""

LOSSES_PER_WORKER = 3
"""Consecutive losses per worker after which the engine raises an error, if they are of enough requests."""

MIN_LOST_REQUESTS = 3
"""Number of different requests that makes consecutive losses a fault of the workers or of the time limit."""


@dataclass
class PendingRequest:
    """A request, its number of failed attempts, and the number of nodes lost under it."""

    request: Request
    attempt: int = 0
    lost_nodes: int = 0


@dataclass
class RetryQueue:
    """Requests that wait for a worker, and the number of attempts after the first."""

    queue: deque[PendingRequest]
    retries: int
    telemetry: Telemetry

    def retry(
        self,
        pending: PendingRequest,
        worker: int,
        error: BaseException,
        event: str,
        trace_error: BaseException | None = None,
    ) -> Outcome | None:
        """Queue the request again, or return its failed outcome; `event` and `trace_error` are for the worker's log."""
        will_retry = pending.attempt < self.retries
        self.telemetry.record_failure(worker, event, pending.request, trace_error or error, will_retry=will_retry)
        if will_retry:
            pending.attempt += 1
            self.queue.append(pending)
            return None
        return make_failed_outcome(pending.request, error)

    def retry_lost(
        self, pending: PendingRequest, worker: int, error: BaseException, *, node_lost: bool
    ) -> Outcome | None:
        """Retry a request whose worker is gone; it does not count as an attempt if the whole node is gone."""
        if node_lost and pending.lost_nodes < MAX_LOST_NODES:
            pending.lost_nodes += 1
            self.telemetry.record_failure(worker, "lost", pending.request, error, will_retry=True)
            self.queue.append(pending)
            return None
        return self.retry(pending, worker, error, "lost")


@dataclass
class LossSeries:
    """Attempts that ended with their worker killed or dead, since the last evaluation that finished.

    One bad candidate loses its workers and is a failed outcome. If different requests lose theirs and none finishes,
    the fault is elsewhere. So failed outcomes of a series are withheld until an evaluation finishes, or until no
    request is left; then the series either ends the search or was one of few candidates. Only requests whose first
    attempt is in the series count: those that failed before are retried in a row.
    """

    losses: int = 0
    requests: set[tuple[str, str]] = field(default_factory=set)
    withheld: list[Outcome] = field(default_factory=list)
    last_error: BaseException | None = None

    def record(self, pending: PendingRequest, error: BaseException, workers: int) -> None:
        """Record a loss, before its retry. Raises EngineError if the series is long."""
        self.losses += 1
        self.last_error = error
        if pending.attempt == 0:
            self.requests.add((pending.request.digest, pending.request.fidelity))
        if self.losses >= LOSSES_PER_WORKER * workers:
            self._check_requests()

    def withhold(self, outcome: Outcome | None) -> None:
        """Keep the failed outcome of a lost request, if any."""
        if outcome is not None:
            self.withheld.append(outcome)

    def end(self) -> None:
        """End the series: an evaluation has finished."""
        self.losses = 0
        self.requests.clear()

    def iter_released(self, *, is_last: bool = False) -> Iterator[Outcome]:
        """Yield the withheld outcomes if the series has ended, or if it `is_last`: no request is left.

        Raises EngineError if it is of too many requests.
        """
        if self.losses and not is_last:
            return
        if self.withheld:
            self._check_requests()
        while self.withheld:
            yield self.withheld.pop(0)

    def _check_requests(self) -> None:
        if len(self.requests) >= MIN_LOST_REQUESTS:
            raise EngineError(
                f"{self.losses} attempts at {len(self.requests)} candidates in a row ended with a killed or dead "
                f"worker, and none finished: {describe_loss(self.last_error)}; {self._get_advice()}; no finished "
                "evaluation is lost: resume the run afterwards"
            )

    def _get_advice(self) -> str:
        if isinstance(self.last_error, TimeoutError):
            return "raise that limit, or set engine.workers lower if the workers slow each other down"
        return "check the memory of the nodes, and the run's logs/worker-*.jsonl"


def describe_loss(error: BaseException | None) -> str:
    """Describe the loss of a worker in one line; of Ray's paragraphs, the detail of the process's exit."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    details = [line.partition("exit detail:")[2].strip() for line in lines if "exit detail:" in line]
    return (details or lines)[0].partition(" Some common causes")[0][:300].rstrip(".")
