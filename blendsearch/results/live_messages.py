"""Messages of the live page: what has changed in a run since the last poll. Ratios and errors are in [0, 1]."""

# ruff: noqa: RUF009 (`omit` returns a dataclass field)

from collections.abc import Mapping
from dataclasses import dataclass, fields

from blendsearch.results.metrics import RunMetric
from blendsearch.results.record import Record, omit
from blendsearch.results.records import Pace


@dataclass(frozen=True, kw_only=True)
class RunHeader(Record):
    """The run itself.

    Attributes
    ----------
    spans: True if the budget is a range.
    errors: False where networks have no accuracy; errors elsewhere are then stand-ins.
    metric: what networks are shown by.
    cost: the name of the cost on the axis.
    dense: the dense network's costs in units.
    """

    run: str
    title: str
    data: str
    budget: str
    spans: bool
    errors: bool
    metric: RunMetric
    cost: str
    method: str
    fidelity: str
    seed: int
    dense: Mapping[str, int]
    splits: str


@dataclass(frozen=True, kw_only=True)
class RowColumns(Record):
    """New evaluations in columns; `error` and `loss` are None for a failed one.

    Attributes
    ----------
    cost, params: shares of the dense network's.
    origins: the origins of baselines, by id.
    failures: the reasons of failures, by id.
    """

    id: tuple[int, ...]
    cost: tuple[float, ...]
    params: tuple[float, ...]
    error: tuple[float | None, ...]
    loss: tuple[float | None, ...]
    generation: tuple[int, ...]
    origins: Mapping[int, str]
    failures: Mapping[int, str]


@dataclass(frozen=True, kw_only=True)
class DensePoint(Record):
    """The dense network."""

    id: int
    error: float | None
    loss: float | None


@dataclass(frozen=True, kw_only=True)
class FrontPoints(Record):
    """The ids of the front, `best` and `knee` among them; `knee` is None without a range of budgets."""

    ids: tuple[int, ...]
    best: int
    knee: int | None


@dataclass(frozen=True, kw_only=True)
class BaselinePoint(Record):
    """The best baseline of a kind; `shape` is the number of the kind."""

    id: int
    kind: str
    shape: int


@dataclass(frozen=True, kw_only=True)
class GenerationPoint(Record):
    """Hypervolume and best loss after so many `evaluations`."""

    generation: int
    evaluations: int
    hypervolume: float | None
    best_loss: float | None


@dataclass(frozen=True, kw_only=True)
class BestPoint(Record):
    """The best network of the search so far."""

    id: int
    loss: float | None
    error: float | None


@dataclass(frozen=True, kw_only=True)
class _Counts(Record):
    state: str
    evaluations: int
    asked: int
    failed: int


@dataclass(frozen=True, kw_only=True)
class RunState(Pace, _Counts):
    """Counts and pace, see `results.status`."""

    best: BestPoint | None


@dataclass(frozen=True, kw_only=True)
class EmptyRunState(Record):
    """The state of a run whose directory does not exist yet."""

    state: str
    evaluations: int = 0


@dataclass(frozen=True, kw_only=True)
class ProcessOutput(Record):
    """A process that this server, or one before it, started for the run.

    Attributes
    ----------
    lives: True while it runs.
    said: the last lines that it printed.
    started: False where the run was started elsewhere.
    """

    lives: bool
    said: tuple[str, ...]
    started: bool


@dataclass(frozen=True, kw_only=True)
class RunNews(Record):
    """Changes since the last message; unchanged parts are None, and left out of JSON.

    Attributes
    ----------
    rows: the evaluations that are new.
    baselines: the best of every kind.
    tests: test accuracy by id.
    """

    dense: DensePoint | None = omit()
    front: FrontPoints | None = omit()
    baselines: tuple[BaselinePoint, ...] | None = omit()
    rows: RowColumns | None = omit()
    generations: tuple[GenerationPoint, ...] | None = omit()
    tests: Mapping[int, float] | None = omit()
    head: RunHeader | None = omit()
    state: RunState | EmptyRunState | None = omit()
    child: ProcessOutput | None = omit()

    def __bool__(self) -> bool:
        """Return whether anything has changed."""
        return any(getattr(self, item.name) is not None for item in fields(self))
