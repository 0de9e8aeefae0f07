"""The first usable network of a search, reported once while the search continues."""

import time
from collections.abc import Callable
from pathlib import Path

from blendsearch.errors import BlendsearchError
from blendsearch.events import Evaluated, Event, GenerationDone, RunCreated

PATIENCE = 90.0
"""Seconds after which the best network so far is reported, although the first generation is not complete."""


class FirstAnswer:
    """Waits for the first generation, which holds the baselines, and composes the answer so far from the run."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._start = clock, clock()
        self._path: Path | None = None

    def receive(self, event: Event) -> list[str]:
        """Return the lines that `event` leads to: once the answer and the command that exports it."""
        if isinstance(event, RunCreated):
            self._path = Path(event.path)
        late = isinstance(event, Evaluated) and self._clock() - self._start > PATIENCE
        if self._path is None or not (late or isinstance(event, GenerationDone)):
            return []
        path, self._path = self._path, None
        return compose_first_answer(path)


def compose_first_answer(path: Path) -> list[str]:
    """Compose the first answer of the run at `path`; nothing where it has none yet."""
    from blendsearch.results.answer import compose_answer
    from blendsearch.runs.run import open_run

    try:
        answer = compose_answer(open_run(path.parent, path.name))
    except (BlendsearchError, OSError):  # the search itself reports what is wrong with its run
        return []
    return [answer.sentences[0], f"  {answer.command}"] if answer.rows else []
