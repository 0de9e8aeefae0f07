"""What libraries say while an evaluation runs: for the logs of the workers, and nobody else's ears."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MAX_MESSAGES = 20
"""Messages kept of one evaluation: more say the same again."""


@contextmanager
def capture_warnings() -> Iterator[list[str]]:
    """Inside, what is warned of, or logged as a warning or worse, is listed too."""
    heard: list[str] = []

    class WarningHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            append_message(f"{record.name}: {record.getMessage()}")

    def append_message(text: str) -> None:
        if len(heard) < MAX_MESSAGES:
            heard.append(text[:500])

    before = warnings.showwarning

    def show_warning(
        message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        append_message(f"{category.__name__}: {message}")
        before(message, category, filename, lineno, file, line)

    listening = WarningHandler(logging.WARNING)
    root = logging.getLogger()
    root.addHandler(listening)
    warnings.showwarning = show_warning
    try:
        yield heard
    finally:
        warnings.showwarning = before
        root.removeHandler(listening)
