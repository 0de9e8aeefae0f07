"""A request on its way through a cluster: tried again where what it ran on is gone, and failed after its attempts."""

from collections import deque
from dataclasses import dataclass

from blendsearch.engine.telemetry import Watching
from blendsearch.fitness.evaluator import Outcome, Request, failed

LOST_AT_MOST = 10
"""Nodes that may die under one request before the request is blamed for it."""

DOUBT_SECONDS = 30.0
"""How long a worker may be out of reach on a node that counts as alive before its request is blamed: Ray takes about
half of that to notice a node that was killed."""


@dataclass
class Asked:
    """A request, how often it has been tried in vain, and how many nodes were lost under it."""

    request: Request
    attempt: int = 0
    lost: int = 0


@dataclass
class Attempts:
    """What waits for a worker, and how many attempts more than one each of it has."""

    queue: deque[Asked]
    retries: int
    watching: Watching

    def again(
        self, asked: Asked, worker: int, error: BaseException, event: str, traced: BaseException | None = None
    ) -> Outcome | None:
        """Queue the request once more, or give up; `event` and `traced` are for the worker's log."""
        more = asked.attempt < self.retries
        self.watching.failed(worker, event, asked.request, traced or error, again=more)
        if more:
            asked.attempt += 1
            self.queue.append(asked)
            return None
        return failed(asked.request, error)

    def gone(self, asked: Asked, worker: int, error: BaseException, *, node_too: bool) -> Outcome | None:
        """`again` for a request whose worker is gone: no attempt is counted where the whole node is gone too."""
        if node_too and asked.lost < LOST_AT_MOST:
            asked.lost += 1
            self.watching.failed(worker, "lost", asked.request, error, again=True)
            self.queue.append(asked)
            return None
        return self.again(asked, worker, error, "lost")
