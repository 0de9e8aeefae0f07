"""Capture of warnings and log messages of libraries during an evaluation, for the workers' logs."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MAX_MESSAGES = 20
"""Largest number of messages kept per evaluation; further ones are mostly repetitions."""


@contextmanager
def capture_warnings() -> Iterator[list[str]]:
    """Yield a list that collects warnings, and log messages of level WARNING or above, inside this context."""
    messages: list[str] = []

    class WarningHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            append_message(f"{record.name}: {record.getMessage()}")

    def append_message(text: str) -> None:
        if len(messages) < MAX_MESSAGES:
            messages.append(text[:500])

    before = warnings.showwarning

    def show_warning(
        message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        append_message(f"{category.__name__}: {message}")
        before(message, category, filename, lineno, file, line)

    handler = WarningHandler(logging.WARNING)
    root = logging.getLogger()
    root.addHandler(handler)
    warnings.showwarning = show_warning
    try:
        yield messages
    finally:
        warnings.showwarning = before
        root.removeHandler(handler)
