"""How a search stands, put together from what it tells; drawn by whoever shows it."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

ACTIVITIES = {
    "traced": "reading the network",
    "measuring": "measuring latencies",
    "training": "training the base network",
    "probed": "measuring sensitivity",
    "derived": "deriving rates",
    "tailored": "training to the budget",
    "scored": "scoring",
    "evaluated": "searching",
    "promoted": "judging again",
    "final": "fine-tuning",
    "tested": "testing",
}
"""What a search is doing, by the event that tells of it."""


@dataclass
class ProgressState:
    """Counts and bests so far.

    Attributes
    ----------
    asked: evaluations that the search is to have.
    done: evaluations it has; `cached` of them, in this process, were in the store before, and `failed` gave no numbers.
    best: the facts of the evaluation with the lowest loss.
    hypervolumes: of every generation heard of.
    busy, workers: of the engine; 0 where not known.
    part: done and whole of what comes before or after the search, such as testing.
    """

    total: int
    clock: Callable[[], float] = time.monotonic
    activity: str = "starting"
    name: str = ""
    generation: int = 0
    done: int = 0
    cached: int = 0
    failed: int = 0
    best: Mapping[str, Any] | None = None
    has_accuracy: bool = True
    hypervolumes: list[float] = field(default_factory=list)
    busy: int = 0
    workers: int = 0
    phase_progress: tuple[float, float] | None = None
    _session_count: int = 0
    _session_start: float | None = None

    def update(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Hear of one event."""
        self.activity = ACTIVITIES.get(kind, self.activity)
        if "done" in facts:
            self.phase_progress = (facts["done"], facts.get("of", 1))
        handler = getattr(self, f"_on_{kind}", None)
        if handler is not None:
            handler(facts)

    def estimate_seconds_left(self) -> float | None:
        """Until the evaluations are done, at the pace of this process; None where it is not known yet."""
        if self._session_start is None or self._session_count < 2 or self.activity != "searching":
            return None
        return (self.clock() - self._session_start) / self._session_count * max(0, self.total - self.done)

    def compute_rate(self) -> float | None:
        """Evaluations a minute in this process."""
        spent = 0.0 if self._session_start is None else self.clock() - self._session_start
        return 60 * self._session_count / spent if self._session_count > 1 and spent else None

    def _on_run(self, facts: Mapping[str, Any]) -> None:
        self.name = facts["run"]

    def _on_resumed(self, facts: Mapping[str, Any]) -> None:
        self.done, self.generation = facts["evaluations"], facts["generation"]
        self.best, self.hypervolumes = facts["best"], list(facts["hypervolumes"])
        self.has_accuracy = facts["tells_error"]

    def _on_control(self, facts: Mapping[str, Any]) -> None:
        self.__init__(self.total, self.clock)  # type: ignore[misc]
        self.name = facts["name"]

    def _on_dense(self, facts: Mapping[str, Any]) -> None:
        self.has_accuracy = facts.get("tells_error", True)

    def _on_asked(self, facts: Mapping[str, Any]) -> None:
        self.activity, self.phase_progress = "searching", None
        self.generation = facts["generation"]
        self.cached += facts["cached"]
        self.done = max(self.done, facts["before"]) + facts["cached"]
        self.workers = facts["workers"]
        self.busy = min(self.workers, facts["candidates"] - facts["cached"])
        if self._session_start is None:
            self._session_start = self.clock()

    def _on_evaluated(self, facts: Mapping[str, Any]) -> None:
        if self._session_start is None:
            self._session_start = self.clock()
        self.phase_progress = None
        self.done, self._session_count = self.done + 1, self._session_count + 1
        self.busy, self.workers = facts.get("busy", 0), facts.get("workers", 0)
        if facts["loss"] is None:
            self.failed += 1
        elif self.best is None or facts["loss"] < self.best["loss"]:
            self.best = facts

    def _on_generation(self, facts: Mapping[str, Any]) -> None:
        self.generation = max(self.generation, facts["generation"] - 1)
        self.hypervolumes.append(facts["hypervolume"])
        self.busy = 0
