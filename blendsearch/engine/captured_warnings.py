"""What libraries say while an evaluation runs: for the logs of the workers, and nobody else's ears."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MOST = 20
"""Messages kept of one evaluation: more say the same again."""


@contextmanager
def overheard() -> Iterator[list[str]]:
    """Inside, what is warned of, or logged as a warning or worse, is listed too."""
    heard: list[str] = []

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            note(f"{record.name}: {record.getMessage()}")

    def note(text: str) -> None:
        if len(heard) < MOST:
            heard.append(text[:500])

    before = warnings.showwarning

    def shown(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
        note(f"{category.__name__}: {message}")
        before(message, category, filename, lineno, file, line)

    listening = Listening(logging.WARNING)
    root = logging.getLogger()
    root.addHandler(listening)
    warnings.showwarning = shown
    try:
        yield heard
    finally:
        warnings.showwarning = before
        root.removeHandler(listening)
