"""A request on its way through a cluster: tried again where what it ran on is gone, and failed after its attempts."""

from collections import deque
from dataclasses import dataclass

from blendsearch.engine.telemetry import Telemetry
from blendsearch.fitness.evaluator import Outcome, Request, make_failed_outcome

MAX_LOST_NODES = 10
"""Nodes that may die under one request before the request is blamed for it."""

UNREACHABLE_SECONDS = 30.0
"""How long a worker may be out of reach on a node that counts as alive before its request is blamed: Ray takes about
half of that to notice a node that was killed."""


@dataclass
class PendingRequest:
    """A request, how often it has been tried in vain, and how many nodes were lost under it."""

    request: Request
    attempt: int = 0
    lost_nodes: int = 0


@dataclass
class RetryQueue:
    """What waits for a worker, and how many attempts more than one each of it has."""

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
        """Queue the request once more, or give up; `event` and `traced` are for the worker's log."""
        more = pending.attempt < self.retries
        self.telemetry.record_failure(worker, event, pending.request, trace_error or error, will_retry=more)
        if more:
            pending.attempt += 1
            self.queue.append(pending)
            return None
        return make_failed_outcome(pending.request, error)

    def retry_lost(
        self, pending: PendingRequest, worker: int, error: BaseException, *, node_lost: bool
    ) -> Outcome | None:
        """`again` for a request whose worker is gone: no attempt is counted where the whole node is gone too."""
        if node_lost and pending.lost_nodes < MAX_LOST_NODES:
            pending.lost_nodes += 1
            self.telemetry.record_failure(worker, "lost", pending.request, error, will_retry=True)
            self.queue.append(pending)
            return None
        return self.retry(pending, worker, error, "lost")
