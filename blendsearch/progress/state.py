"""The state of a search, accumulated from its events and drawn by the progress views."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from blendsearch.events import (
    BaseTrained,
    ControlStarted,
    DenseEvaluated,
    Evaluated,
    EvaluationReport,
    Event,
    FinalTrained,
    FineTuned,
    GenerationAsked,
    GenerationDone,
    LatencyMeasuring,
    MethodProgress,
    Promoted,
    Resumed,
    RunCreated,
    Scored,
    StepDone,
    Tested,
    Traced,
)

ACTIVITIES: dict[type[Event], str] = {
    Traced: "reading the network",
    LatencyMeasuring: "measuring latencies",
    BaseTrained: "training the base network",
    Scored: "scoring",
    Evaluated: "searching",
    GenerationAsked: "searching",
    Promoted: "evaluating again",
    FineTuned: "fine-tuning",
    FinalTrained: "fine-tuning",
    Tested: "testing",
}
"""Current activity of a search, by the type of its last event."""


@dataclass
class ProgressState:
    """Counts and bests so far.

    Attributes
    ----------
    total: evaluations that the search is to have.
    done: evaluations it has; `cached` of them, in this process, were stored before, and `failed` gave no numbers.
    best: the evaluation with the lowest loss.
    hypervolumes: one per generation.
    busy, workers: of the engine; 0 where not known.
    phase_progress: done and total of the current stage before or after the search, such as testing.
    tuning: the fine-tune that reported last.
    """

    total: int
    clock: Callable[[], float] = time.monotonic
    activity: str = "starting"
    name: str = ""
    generation: int = 0
    done: int = 0
    cached: int = 0
    failed: int = 0
    best: EvaluationReport | None = None
    has_accuracy: bool = True
    measure: str = "accuracy"
    hypervolumes: list[float] = field(default_factory=list)
    busy: int = 0
    workers: int = 0
    phase_progress: tuple[float, float] | None = None
    tuning: FineTuned | None = None
    _here: int = 0
    _since: float | None = None

    def update(self, event: Event) -> None:
        """Update the state by one event."""
        if not isinstance(event, FineTuned) or self.activity not in ("searching", "evaluating again"):
            self.activity = ACTIVITIES.get(type(event), self.activity)
        match event:
            case StepDone() | Tested():
                self.phase_progress = (event.done, event.of)
            case BaseTrained():
                self.phase_progress = (event.done, 1)
            case FineTuned():
                self.tuning = event
        match event:
            case MethodProgress():
                self.activity = event.activity
            case RunCreated():
                self.name = event.run
            case ControlStarted():
                self.__init__(self.total, self.clock)  # type: ignore[misc]
                self.name = event.name
            case DenseEvaluated():
                self.has_accuracy, self.measure = event.tells_error, event.measure
            case Resumed():
                self._resume(event)
            case GenerationAsked():
                self._start_generation(event)
            case Evaluated():
                self._add_evaluation(event)
            case GenerationDone():
                self.generation = max(self.generation, event.generation - 1)
                self.hypervolumes.append(event.hypervolume)
                self.busy = 0

    def estimate_seconds_left(self) -> float | None:
        """Estimate the time until the evaluations are done, at the pace of this process; None where it is unknown."""
        if self._since is None or self._here < 2 or self.activity != "searching":
            return None
        return (self.clock() - self._since) / self._here * max(0, self.total - self.done)

    def compute_rate(self) -> float | None:
        """Compute evaluations per minute of this process; None where it is unknown."""
        spent = 0.0 if self._since is None else self.clock() - self._since
        return 60 * self._here / spent if self._here > 1 and spent else None

    def _resume(self, event: Resumed) -> None:
        self.done, self.generation = event.evaluations, event.generation
        self.best, self.hypervolumes = event.best, list(event.hypervolumes)
        self.has_accuracy = event.tells_error

    def _start_generation(self, event: GenerationAsked) -> None:
        self.phase_progress = None
        self.generation = event.generation
        self.cached += event.cached
        self.done = max(self.done, event.before) + event.cached
        self.workers = event.workers
        self.busy = min(self.workers, event.candidates - event.cached)
        if self._since is None:
            self._since = self.clock()

    def _add_evaluation(self, event: Evaluated) -> None:
        if self._since is None:
            self._since = self.clock()
        self.phase_progress = None
        self.done, self._here = self.done + 1, self._here + 1
        self.busy, self.workers = event.busy, event.workers
        if event.loss is None:
            self.failed += 1
        elif self.best is None or self.best.loss is None or event.loss < self.best.loss:
            self.best = event
