"""A request that is running on a worker of a cluster."""

from dataclasses import dataclass
from typing import Any

from blendsearch.engine.retries import PendingRequest


@dataclass(eq=False)
class WorkerHandle:
    """A worker: its number, its actor, and its node once it has started."""

    number: int
    actor: Any
    node: str = ""


@dataclass
class RunningRequest:
    """A running request, its worker and its start time."""

    pending: PendingRequest
    worker: WorkerHandle
    started_at: float
