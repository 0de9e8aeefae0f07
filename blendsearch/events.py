"""Events that a search reports, as typed values; `to_dict` gives the JSON objects that ``--json`` prints."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base of all events. `kind` is the value of ``"event"`` in JSON."""

    kind: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the event as a JSON object: its kind, then its fields in order."""
        return {"event": self.kind, **{item.name: getattr(self, item.name) for item in fields(self)}}


Reporter = Callable[[Event], None]
"""Receives every event of a search."""


def join_reporters(receivers: Sequence[Reporter]) -> Reporter:
    """Make a reporter that passes every event to all of `receivers`, in order."""

    def report(event: Event) -> None:
        for receive in receivers:
            receive(event)

    return report


def ignore_event(event: Event) -> None:
    """Drop `event`: the reporter of callers that need none."""


@dataclass(frozen=True, kw_only=True)
class Warned(Event):
    """A condition that the user should know about; the search continues."""

    kind = "warning"
    text: str


@dataclass(frozen=True, kw_only=True)
class StepDone(Event):
    """Base of events that count steps: `done` of `of`."""

    done: float
    of: float


# before a search


@dataclass(frozen=True, kw_only=True)
class Traced(Event):
    """The network was traced. `reachable`: the lowest ratio of each cost that any cut reaches."""

    kind = "traced"
    groups: int
    frozen: int
    reachable: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class MetricChecked(Event):
    """The user's ``evaluate=`` ran on the dense network. `metrics`: whatever else it returned."""

    kind = "judged"
    by: str
    loss: float
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"event": self.kind, "by": self.by, "loss": self.loss, **self.metrics}


@dataclass(frozen=True, kw_only=True)
class BaseTrained(Event):
    """The base network is being trained: `done` is a share of the schedule in [0, 1]."""

    kind = "training"
    done: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class LatencyMeasuring(Event):
    """Latencies of `cuts` cuts are about to be measured; `where` names device, batch size and precision."""

    kind = "measuring"
    cuts: int
    where: str


@dataclass(frozen=True, kw_only=True)
class LatencyFitted(Event):
    """A latency model was fitted. Errors and `margin` are shares of the measured latency."""

    kind = "latency"
    dense_ms: float
    margin: float
    error_median: float
    error_most: float
    held_out: int
    where: str
    reachable: float


@dataclass(frozen=True, kw_only=True)
class Scored(Event):
    """Every criterion scored the channels. `left_out`: criterion, group and reason of each score that is missing."""

    kind = "scored"
    criteria: Sequence[str]
    left_out: Sequence[Mapping[str, str]]


@dataclass(frozen=True, kw_only=True)
class RunCreated(Event):
    """The run directory exists."""

    kind = "run"
    run: str
    path: str


@dataclass(frozen=True, kw_only=True)
class Forked(Event):
    """A run was forked from `parent`.

    Attributes
    ----------
    changed: old and new value by config field.
    begins: networks of the parent in the first generation.
    judgements: evaluations inherited from the parent.
    again: why none are inherited, or "".
    """

    kind = "forked"
    parent: str
    changed: Mapping[str, Sequence[Any]]
    begins: int
    judgements: int
    again: str


@dataclass(frozen=True, kw_only=True)
class ControlStarted(Event):
    """A control of a comparison starts, as run `name`."""

    kind = "control"
    name: str


# during a search


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """Results of one evaluation; loss and error are None where it failed. Ratios are shares of the dense cost."""

    id: int
    origin: str
    loss: float | None
    error: float | None
    macs_ratio: float
    params_ratio: float
    seconds: float
    failure: str


@dataclass(frozen=True, kw_only=True)
class DenseEvaluated(EvaluationReport, Event):
    """The dense network was evaluated. `tells_error`: whether `error` is a classification error.

    `measure`: name of 1 - error; in JSON where it is not accuracy.
    """

    kind = "dense"
    tells_error: bool
    measure: str = "accuracy"

    def to_dict(self) -> dict[str, Any]:
        found = super().to_dict()
        if self.measure == "accuracy":
            del found["measure"]
        return found


@dataclass(frozen=True, kw_only=True)
class MethodProgress(StepDone):
    """A method works on its network before the search.

    Attributes
    ----------
    name: the kind of the JSON object, by convention the method's name.
    activity: a present participle for progress bars, such as ``deriving rates``.
    line: one line for a log, or "" for none.
    facts: further fields of the JSON object.
    """

    kind = "method"
    name: str
    activity: str
    line: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"event": self.name, "done": self.done, "of": self.of, **self.facts}


@dataclass(frozen=True, kw_only=True)
class GenerationAsked(Event):
    """The optimizer proposed a generation. `cached`: candidates evaluated before; `before`: evaluations so far."""

    kind = "asked"
    generation: int
    before: int
    candidates: int
    cached: int
    workers: int


@dataclass(frozen=True, kw_only=True)
class Evaluated(EvaluationReport, Event):
    """A candidate was evaluated. `busy` of `workers` workers are evaluating now."""

    kind = "evaluated"
    busy: int
    workers: int


@dataclass(frozen=True, kw_only=True)
class GenerationDone(Event):
    """A generation is complete. `front` counts the networks of the Pareto front; `seconds` is wall time."""

    kind = "generation"
    generation: int
    evaluations: int
    seconds: float
    front: int
    hypervolume: float
    best_loss: float | None


@dataclass(frozen=True, kw_only=True)
class Resumed(Event):
    """The search continues after `evaluations` evaluations."""

    kind = "resumed"
    evaluations: int
    generation: int
    best: EvaluationReport | None
    hypervolumes: Sequence[float]
    tells_error: bool

    def to_dict(self) -> dict[str, Any]:
        best = None if self.best is None else vars(self.best)
        return {**super().to_dict(), "best": best}


@dataclass(frozen=True, kw_only=True)
class StoppedEarly(Event):
    """The search ends before its evaluations are used up."""

    kind = "stopped"
    reason: str


@dataclass(frozen=True, kw_only=True)
class Interrupted(Event):
    """The process was interrupted; `how` is the command that resumes the run."""

    kind = "interrupted"
    how: str


# after a search


@dataclass(frozen=True, kw_only=True)
class Promoted(StepDone):
    """A promoted network was evaluated at the higher fidelity."""

    kind = "promoted"


@dataclass(frozen=True, kw_only=True)
class PrecisionChosen(Event):
    """The precision of products was chosen by the seconds of a forward pass in each."""

    kind = "precision"
    precision: str
    seconds: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class RateFound(Event):
    """The learning rate of the finals was chosen by the validation losses of short trainings."""

    kind = "rate"
    rate: float
    losses: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class RungTrained(Event):
    """A network was trained up to a rung of the ladder; loss and error are None where that failed.

    Attributes
    ----------
    rung, rungs: the rung, from 1, and the number of rungs with the last one.
    share: the part of the schedule that is trained, in (0, 1).
    """

    kind = "rung"
    id: int
    origin: str
    rung: int
    rungs: int
    share: float
    loss: float | None
    error: float | None


@dataclass(frozen=True, kw_only=True)
class FineTuned(Event):
    """How far a training has come.

    Attributes
    ----------
    key: key of the training's checkpoint.
    done: part of the schedule, in [0, 1].
    epoch, epochs: epochs done and in all.
    loss: mean training loss of the epoch so far.
    images_per_second: since this process began the training.
    seconds_left: estimated from that pace.
    """

    kind = "tuning"
    key: str
    done: float
    epoch: float
    epochs: float
    loss: float
    images_per_second: float
    seconds_left: float


@dataclass(frozen=True, kw_only=True)
class FinalTrained(StepDone):
    """A final network was fine-tuned."""

    kind = "final"


@dataclass(frozen=True, kw_only=True)
class Tested(Event):
    """A network was evaluated on the test images."""

    kind = "tested"
    digest: str
    done: int
    of: int


@dataclass(frozen=True, kw_only=True)
class LatenciesMeasured(Event):
    """Latencies of reported networks were measured; `slower` of them exceed the model's estimate."""

    kind = "latencies"
    networks: int
    slower: int
    where: str
