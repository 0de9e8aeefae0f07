"""How a search stands, put together from what it tells; drawn by whoever shows it."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

DOING = {
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
class State:
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

    asked: int
    clock: Callable[[], float] = time.monotonic
    doing: str = "starting"
    name: str = ""
    generation: int = 0
    done: int = 0
    cached: int = 0
    failed: int = 0
    best: Mapping[str, Any] | None = None
    tells_error: bool = True
    hypervolumes: list[float] = field(default_factory=list)
    busy: int = 0
    workers: int = 0
    part: tuple[float, float] | None = None
    _here: int = 0
    _since: float | None = None

    def take(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Hear of one event."""
        self.doing = DOING.get(kind, self.doing)
        if "done" in facts:
            self.part = (facts["done"], facts.get("of", 1))
        handler = getattr(self, f"_on_{kind}", None)
        if handler is not None:
            handler(facts)

    def seconds_left(self) -> float | None:
        """Until the evaluations are done, at the pace of this process; None where it is not known yet."""
        if self._since is None or self._here < 2 or self.doing != "searching":
            return None
        return (self.clock() - self._since) / self._here * max(0, self.asked - self.done)

    def per_minute(self) -> float | None:
        """Evaluations a minute in this process."""
        spent = 0.0 if self._since is None else self.clock() - self._since
        return 60 * self._here / spent if self._here > 1 and spent else None

    def _on_run(self, facts: Mapping[str, Any]) -> None:
        self.name = facts["run"]

    def _on_resumed(self, facts: Mapping[str, Any]) -> None:
        self.done, self.generation = facts["evaluations"], facts["generation"]
        self.best, self.hypervolumes = facts["best"], list(facts["hypervolumes"])
        self.tells_error = facts["tells_error"]

    def _on_control(self, facts: Mapping[str, Any]) -> None:
        self.__init__(self.asked, self.clock)  # type: ignore[misc]
        self.name = facts["name"]

    def _on_dense(self, facts: Mapping[str, Any]) -> None:
        self.tells_error = facts.get("tells_error", True)

    def _on_asked(self, facts: Mapping[str, Any]) -> None:
        self.doing, self.part = "searching", None
        self.generation = facts["generation"]
        self.cached += facts["cached"]
        self.done = max(self.done, facts["before"]) + facts["cached"]
        self.workers = facts["workers"]
        self.busy = min(self.workers, facts["candidates"] - facts["cached"])
        if self._since is None:
            self._since = self.clock()

    def _on_evaluated(self, facts: Mapping[str, Any]) -> None:
        if self._since is None:
            self._since = self.clock()
        self.part = None
        self.done, self._here = self.done + 1, self._here + 1
        self.busy, self.workers = facts.get("busy", 0), facts.get("workers", 0)
        if facts["loss"] is None:
            self.failed += 1
        elif self.best is None or facts["loss"] < self.best["loss"]:
            self.best = facts

    def _on_generation(self, facts: Mapping[str, Any]) -> None:
        self.generation = max(self.generation, facts["generation"] - 1)
        self.hypervolumes.append(facts["hypervolume"])
        self.busy = 0
