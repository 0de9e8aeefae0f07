"""Trackers: the events of a search as metrics in TensorBoard, MLflow or Weights & Biases.

A tracker is a reporter: ``blendsearch.search(..., progress=[True, make_tracker("tensorboard:logs")])``, or ``--track``
on the command line. Each library is imported when its tracker is made.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from blendsearch.errors import ConfigError
from blendsearch.events import DenseEvaluated, Evaluated, EvaluationReport, Event, GenerationDone, RunCreated
from blendsearch.extras import format_missing

if TYPE_CHECKING:
    from blendsearch.progress.lines import JsonLines, TextProgress


class Tracker(Protocol):
    """Receives the events of one search, and is closed after it."""

    def __call__(self, event: Event) -> None: ...

    def close(self) -> None: ...


def collect_metrics(event: Event) -> dict[str, float]:
    """Collect the numbers of `event` that are plotted; empty for most events."""
    match event:
        case DenseEvaluated():
            return _drop_missing(_collect_evaluation(event, "dense"))
        case Evaluated():
            return _drop_missing(_collect_evaluation(event, "network"))
        case GenerationDone():
            facts = {"best_loss": event.best_loss, "front": event.front, "hypervolume": event.hypervolume}
            return _drop_missing({f"search/{name}": value for name, value in facts.items()})
    return {}


def get_step(event: Event) -> int:
    """Get the number of evaluations at `event`, the horizontal axis of all plots."""
    match event:
        case EvaluationReport():
            return event.id
        case GenerationDone():
            return event.evaluations
    return 0


def _collect_evaluation(event: EvaluationReport, name: str) -> dict[str, float | None]:
    facts = {"loss": event.loss, "error": event.error, "macs": event.macs_ratio, "params": event.params_ratio}
    return {f"{name}/{key}": value for key, value in facts.items()}


def _drop_missing(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}


class TensorBoardTracker:
    """Writes scalars to a folder that ``tensorboard --logdir`` reads."""

    def __init__(self, folder: str) -> None:
        self._writer: Any = _make_summary_writer(folder or "tensorboard")

    def __call__(self, event: Event) -> None:
        for name, value in collect_metrics(event).items():
            self._writer.add_scalar(name, value, get_step(event))

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()


def _make_summary_writer(folder: str) -> Any:
    for module in ("torch.utils.tensorboard", "tensorboardX"):
        try:
            return import_module(module).SummaryWriter(folder)
        except ImportError:
            continue
    raise ConfigError(format_missing("--track tensorboard", "tensorboard"))


class MlflowTracker:
    """Logs metrics to a run of MLflow, at the place that MLflow's own variables name."""

    def __init__(self, experiment: str) -> None:
        self._mlflow: Any = _import_library("mlflow")
        if experiment:
            self._mlflow.set_experiment(experiment)
        self._run = self._mlflow.start_run()

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunCreated):
            self._mlflow.set_tags({"blendsearch.run": event.run, "blendsearch.path": event.path})
        if found := collect_metrics(event):
            self._mlflow.log_metrics(found, step=get_step(event))

    def close(self) -> None:
        """End the run of MLflow."""
        self._mlflow.end_run()


class WandbTracker:
    """Logs metrics to a run of Weights & Biases, at the place that its own variables name."""

    def __init__(self, project: str) -> None:
        wandb: Any = _import_library("wandb")
        self._run = wandb.init(project=project or "blendsearch")
        self._run.define_metric("*", step_metric="evaluations")

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunCreated):
            self._run.config.update({"run": event.run, "path": event.path})
        if found := collect_metrics(event):
            self._run.log({**found, "evaluations": get_step(event)})

    def close(self) -> None:
        """Finish the run of Weights & Biases."""
        self._run.finish()


def _import_library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(format_missing(f"--track {name}", name)) from error


class TrackedProgress:
    """A view of the progress, and trackers that receive the same events."""

    def __init__(self, view: "JsonLines | TextProgress", trackers: Sequence[Tracker]) -> None:
        self._view, self._trackers = view, trackers

    def __call__(self, event: Event) -> None:
        for receive in (self._view, *self._trackers):
            receive(event)

    def announce(self, line: str) -> None:
        """Announce the search in the view."""
        self._view.announce(line)

    def close(self) -> None:
        """Close all of them."""
        for item in (self._view, *self._trackers):
            item.close()


TRACKERS: dict[str, Callable[[str], Tracker]] = {
    "tensorboard": TensorBoardTracker,
    "mlflow": MlflowTracker,
    "wandb": WandbTracker,
}


def make_tracker(text: str) -> Tracker:
    """Make the tracker of ``tensorboard:FOLDER``, ``mlflow:EXPERIMENT`` or ``wandb:PROJECT``.

    The second part is optional. Raises ConfigError for another name, and where the library is not installed.
    """
    name, _, argument = text.partition(":")
    if name not in TRACKERS:
        raise ConfigError(f"no tracker is called {name!r}: known are {', '.join(TRACKERS)}")
    return TRACKERS[name](argument)
