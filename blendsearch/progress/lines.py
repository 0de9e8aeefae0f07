"""Progress as text: plain lines for a pipe or a log, or JSON lines."""

import sys
import time
from collections.abc import Iterator
from typing import TextIO

from rich.console import Console

from blendsearch.events import (
    BaseTrained,
    ControlStarted,
    DenseEvaluated,
    Event,
    FinalTrained,
    Forked,
    GenerationAsked,
    GenerationDone,
    Interrupted,
    LatenciesMeasured,
    LatencyFitted,
    LatencyMeasuring,
    MethodProgress,
    MetricChecked,
    PrecisionChosen,
    RateFound,
    Resumed,
    RunCreated,
    RungTrained,
    Scored,
    StoppedEarly,
    Traced,
    Warned,
)
from blendsearch.json_output import format_json
from blendsearch.progress.first_answer import FirstAnswer
from blendsearch.progress.live import LiveView
from blendsearch.progress.state import ProgressState

MAX_LEFT_OUT = 5
"""Missing scores that are listed one by one."""


class JsonLines:
    """Print one JSON object per event."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout

    def __call__(self, event: Event) -> None:
        print(format_json(event.to_dict()), file=self._stream, flush=True)

    def announce(self, line: str) -> None:
        """Print nothing: `line` is no event."""

    def close(self) -> None:
        """Do nothing: no resource is held."""


class TextProgress:
    """Print one line per generation and milestone; on a terminal, show a live view below them."""

    def __init__(self, console: Console, evaluations: int, *, quiet: bool = False) -> None:
        """Print to `console`; where `quiet`, warnings alone."""
        self._console, self._quiet = console, quiet
        self._started = time.monotonic()
        self._state = ProgressState(evaluations)
        self._first_answer = FirstAnswer()
        self._view: LiveView | None = LiveView(console, self._state) if console.is_terminal and not quiet else None

    def __call__(self, event: Event) -> None:
        self._state.update(event)
        if self._quiet and not isinstance(event, Warned):
            return
        for line in format_event(event, self._state.measure if self._state.has_accuracy else None):
            if isinstance(event, GenerationDone):
                line += f"  {time.monotonic() - self._started:.0f} s"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)
        for line in self._first_answer.receive(event):
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def announce(self, line: str) -> None:
        """Print `line` before the first event, while torch is imported and the data is loaded."""
        self._state.activity = "loading"
        if self._quiet:
            return
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        if self._view is not None:
            self._view.close()


def format_event(event: Event, measure: str | None = "accuracy") -> Iterator[str]:
    """Format an event as lines of text; events that are shown by the live view alone give none.

    `measure` is the name of the networks' accuracy; None where they have none.
    """
    match event:
        case Warned(text=text):
            yield f"warning: {text}"
        case Traced() | MetricChecked() | BaseTrained() | Scored() | DenseEvaluated():
            yield from _format_preparation(event)
        case LatencyMeasuring() | LatencyFitted() | LatenciesMeasured():
            yield _format_latency(event)
        case MethodProgress(line=line):
            if line:
                yield line
        case RunCreated(run=run, path=path):
            yield f"run {run} in {path}"
        case Forked():
            yield from _format_fork(event)
        case ControlStarted(name=name):
            yield f"control {name}"
        case Resumed(best=best, evaluations=evaluations):
            loss = "" if best is None else f", best loss {best.loss:.4f}"
            yield f"resuming after {evaluations} evaluations{loss}"
        case GenerationAsked(cached=cached, generation=generation):
            if cached:
                yield f"{cached} of generation {generation + 1} were evaluated before and are not repeated"
        case GenerationDone():
            yield _format_generation(event)
        case PrecisionChosen(precision=precision, seconds=seconds):
            taken = ", ".join(f"{name} {1e3 * value:.3g} ms" for name, value in seconds.items())
            yield f"precision {precision}: a forward pass takes {taken}"
        case RateFound(rate=rate, losses=losses):
            tried = ", ".join(f"{name}: {loss:.4f}" for name, loss in losses.items())
            yield f"learning rate {rate:g} for the final training; validation losses {tried}"
        case RungTrained(loss=float(loss)):
            accuracy = "" if event.error is None or measure is None else f"{measure} {1 - event.error:.2%}, "
            yield (
                f"network {event.id} trained to rung {event.rung} of {event.rungs}, {event.share:.0%} of the schedule: "
                f"validation {accuracy}loss {loss:.4f}"
            )
        case FinalTrained(done=done, of=of):
            yield f"{done:g} of {of:g} networks trained"
        case StoppedEarly(reason=reason):
            yield f"stopped early: {reason}"
        case Interrupted(how=how):
            yield f"stopped; resume with: {how}"


def _format_preparation(event: Traced | MetricChecked | BaseTrained | Scored | DenseEvaluated) -> Iterator[str]:
    match event:
        case Traced():
            least = ", ".join(f"{ratio:.1%} of {name}" for name, ratio in event.reachable.items())
            frozen = f", {event.frozen} frozen" if event.frozen else ""
            yield f"{event.groups} groups can be cut{frozen}; reachable: down to {least}"
        case MetricChecked():
            yield f"dense network evaluated by {event.by}: loss {event.loss:.4g}"
        case BaseTrained(done=1):
            yield f"base network trained, last loss {event.loss:.3f}"
        case Scored():
            yield from _format_scores(event)
        case DenseEvaluated(loss=float(loss)):
            accuracy = (
                f"{event.measure} {1 - event.error:.2%}, " if event.tells_error and event.error is not None else ""
            )
            yield f"dense network: validation {accuracy}loss {loss:.4f}"


def _format_scores(event: Scored) -> Iterator[str]:
    yield f"{len(event.criteria)} criteria scored"
    left_out = [item for item in event.left_out if item["reason"] != "does not apply"]
    for item in left_out[:MAX_LEFT_OUT]:
        yield f"  left out: {item['criterion']} in {item['group']}: {item['reason']}"
    if len(left_out) > MAX_LEFT_OUT:
        yield f"  and {len(left_out) - MAX_LEFT_OUT} more"


def _format_latency(event: LatencyMeasuring | LatencyFitted | LatenciesMeasured) -> str:
    match event:
        case LatencyMeasuring():
            return f"measuring the latency of {event.cuts} cuts on {event.where}"
        case LatencyFitted():
            return (
                f"dense network: {event.dense_ms:.2f} ms; the latency model is off by {event.error_median:.1%} in the "
                f"median of {event.held_out} held-out cuts, at most {event.error_most:.1%}; cuts are charged "
                f"{event.margin:.1%} more than it predicts; reachable: down to {event.reachable:.1%} of latency"
            )
        case LatenciesMeasured():
            slower = f"; {event.slower} slower than charged" if event.slower else ", none slower than charged"
            return f"latency of {event.networks} networks measured on {event.where}{slower}"


def _format_fork(event: Forked) -> Iterator[str]:
    taken = f"{event.judgements} evaluations are inherited"
    if event.again:
        taken = f"no evaluation is inherited, since {event.again}"
    yield f"forked from {event.parent}: {event.begins} of its networks begin the search; {taken}"
    for name, (old, new) in event.changed.items():
        yield f"  {name}: {old} -> {new}"


def _format_generation(event: GenerationDone) -> str:
    best = "none" if event.best_loss is None else f"{event.best_loss:.4f}"
    return (
        f"generation {event.generation:>3} {event.evaluations:>6} evaluations  best loss {best}  "
        f"front {event.front:>3}  hypervolume {event.hypervolume:.4f}"
    )
