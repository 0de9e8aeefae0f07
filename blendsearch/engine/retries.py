"""Retries of requests on a cluster: after lost workers, lost nodes and errors, up to a number of attempts."""

from collections import deque
from dataclasses import dataclass

from blendsearch.engine.telemetry import Telemetry
from blendsearch.fitness.evaluator import Outcome, Request, make_failed_outcome

MAX_LOST_NODES = 10
"""Nodes that may die under one request before the loss counts as an attempt."""

UNREACHABLE_SECONDS = 30.0
"""Time for which a worker may be unreachable on a living node before it counts as an attempt. Ray takes about half
of it to detect a killed node.
"""


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
