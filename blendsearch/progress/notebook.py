"""The same view in a notebook: one output that is drawn anew, and nothing to install for it."""

import sys
import time
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from blendsearch.progress.live import format_time_left, list_state_rows
from blendsearch.progress.state import ProgressState

REDRAW_SECONDS = 0.3
"""Seconds between two drawings."""


def is_notebook() -> bool:
    """Whether output goes to a notebook's cell."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell"


class NotebookProgress:
    """Hears a search's events and shows how it stands in the cell that started it; warnings stay below the bar."""

    def __init__(self, evaluations: int) -> None:
        self._state = ProgressState(evaluations)
        self._messages: list[str] = []
        self._drawn_at = float("-inf")
        self._handle: Any = None

    def __call__(self, kind: str, facts: Mapping[str, Any]) -> None:
        self._state.update(kind, facts)
        if kind == "warning":
            self._messages.append(f"warning: {facts['text']}")
        elif kind == "interrupted":
            self._messages.append(f"stopped; continue with: {facts['how']}")
        if time.monotonic() - self._drawn_at >= REDRAW_SECONDS or kind in ("warning", "interrupted"):
            self._draw()

    def close(self) -> None:
        """Draw how it ended."""
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
    """The state as HTML: a progress bar and a small table."""
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
