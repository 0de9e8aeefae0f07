"""Live view at the foot of a terminal: activity, results so far, time left."""

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from blendsearch.progress.state import ProgressState

LEVELS = "▁▂▃▄▅▆▇█"
TREND_LENGTH = 40
"""Generations of which the hypervolume is drawn."""


class LiveView:
    """Draws a state four times a second, with a spinner that turns also while nothing is reported; gone when closed."""

    def __init__(self, console: Console, state: ProgressState) -> None:
        self._state, self._spinner = state, Spinner("dots")
        self._live = Live(
            get_renderable=lambda: render_state(self._state, console.width, self._spinner),
            console=console,
            refresh_per_second=4,
            transient=True,
        )
        self._live.start()

    def close(self) -> None:
        self._live.stop()


def render_state(state: ProgressState, width: int = 80, spinner: RenderableType = "") -> RenderableType:
    """Render the state as lines of text, labels on the left."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
    for label, text in list_state_rows(state):
        table.add_row(label, Text(text))
    done, whole = state.phase_progress if state.phase_progress is not None else (state.done, state.total)
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        spinner,
        Text(state.activity, style="bold"),
        ProgressBar(total=max(whole, 1e-9), completed=done, width=max(10, min(40, width - 50))),
        Text("" if whole == 1 else f"{done:g} of {whole:g}"),
        Text(format_time_left(state)),
    )
    return Group(Text(""), bar, table)


def list_state_rows(state: ProgressState) -> list[tuple[str, str]]:
    """List the state of the search as pairs of a label and a text."""
    found = []
    if state.done or state.generation:
        counts = [f"{state.done} done", f"{state.cached} from the store", f"{state.failed} failed"]
        found.append(("evaluations", f"generation {state.generation + 1}: " + ", ".join(counts)))
    if (best := state.best) is not None:
        accuracy = f", {state.measure} {1 - (best.error or 0.0):.2%}" if state.has_accuracy else ""
        spent = f"{best.macs_ratio:.2%} of MACs, {best.params_ratio:.2%} of params"
        found.append(("best in budget", f"network {best.id}: loss {best.loss:.4f}{accuracy}, {spent}"))
    if state.hypervolumes:
        found.append(("hypervolume", f"{format_trend(state.hypervolumes)} {state.hypervolumes[-1]:.4f}"))
    if state.workers:
        pace = state.compute_rate()
        speed = "" if pace is None else f", {pace:.1f} evaluations a minute"
        found.append(("workers", f"{state.busy} of {state.workers} busy{speed}"))
    if (tuning := state.tuning) is not None and state.activity == "fine-tuning":
        speed = f"{tuning.images_per_second:,.0f} images/s, {format_duration(tuning.seconds_left)} left"
        found.append(("training", f"epoch {tuning.epoch:.1f} of {tuning.epochs:g}, loss {tuning.loss:.4f}, {speed}"))
    return found


def format_trend(values: list[float]) -> str:
    """Format the last values as a row of bars, from their lowest to their highest."""
    shown = values[-TREND_LENGTH:]
    low, high = min(shown), max(shown)
    if high == low:
        return LEVELS[len(LEVELS) // 2] * len(shown)
    return "".join(LEVELS[round((value - low) / (high - low) * (len(LEVELS) - 1))] for value in shown)


def format_time_left(state: ProgressState) -> str:
    """Format the time left; "" where it is unknown."""
    seconds = state.estimate_seconds_left()
    return "" if seconds is None else f"{format_duration(seconds)} left"


def format_duration(seconds: float) -> str:
    """Format a duration as minutes and seconds, from an hour on with hours."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
