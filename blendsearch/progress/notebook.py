"""Progress view of a notebook: one output cell that is redrawn."""

import sys
import time
from typing import Any

from markupsafe import Markup

from blendsearch.events import Event, Interrupted, Warned
from blendsearch.progress.live import format_time_left, list_state_rows
from blendsearch.progress.state import ProgressState

REDRAW_SECONDS = 0.3
"""Seconds between two drawings."""


def is_notebook() -> bool:
    """Return True where output goes to a notebook cell."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell"


class NotebookProgress:
    """Progress of a search in the cell that started it; warnings stay below the bar."""

    def __init__(self, evaluations: int) -> None:
        self._state = ProgressState(evaluations)
        self._messages: list[str] = []
        self._drawn_at = float("-inf")
        self._handle: Any = None

    def __call__(self, event: Event) -> None:
        self._state.update(event)
        if isinstance(event, Warned):
            self._messages.append(f"warning: {event.text}")
        elif isinstance(event, Interrupted):
            self._messages.append(f"stopped; resume with: {event.how}")
        if time.monotonic() - self._drawn_at >= REDRAW_SECONDS or isinstance(event, Warned | Interrupted):
            self._draw()

    def close(self) -> None:
        """Draw the final state."""
        self._draw()

    def _draw(self) -> None:
        from IPython.display import HTML, display

        self._drawn_at = time.monotonic()
        page = HTML(render_html(self._state, self._messages))
        if self._handle is None:
            self._handle = display(page, display_id=True)
        else:
            self._handle.update(page)


def render_html(state: ProgressState, messages: list[str]) -> str:
    """Render the state as HTML: a progress bar and a small table."""
    done, whole = state.phase_progress if state.phase_progress is not None else (state.done, state.total)
    count = "" if whole == 1 else f"{done:g} of {whole:g}"
    rows = Markup("").join(
        Markup('<tr><td style="text-align:left">{}</td><td style="text-align:left">{}</td></tr>').format(*pair)
        for pair in [*list_state_rows(state), *(("", text) for text in messages)]
    )
    head = Markup('<div>{} <progress value="{}" max="{}"></progress> {} {}</div>')
    return str(
        head.format(state.activity, done, max(whole, 1e-9), count, format_time_left(state))
        + Markup("<table>{}</table>").format(rows)
    )
