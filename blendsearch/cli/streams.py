"""Standard streams with defined failures: lost output ends the command, lost error output never does."""

import errno
import io
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast


class OutputLost(BaseException):
    """Standard output cannot be written any more.

    Not an `Exception`, so that a user-defined evaluation that prints does not count as failed.
    """

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause.strerror or str(cause))
        self.reader_is_gone = isinstance(cause, BrokenPipeError)


class StandardStream:
    """A text stream that discards everything after its first failure.

    A `required` stream raises OutputLost once, in the main thread. A terminal that is gone (EIO) raises nothing: a
    process that survives the hangup, under nohup for example, continues without it.
    """

    def __init__(self, stream: TextIO, *, required: bool) -> None:
        self._stream = stream
        self._raises = required
        self._is_terminal = stream.isatty()
        self._failure: OSError | None = None

    def write(self, text: str) -> int:
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _attempt(self, operation: Callable[[], object]) -> None:
        if self._failure is None:
            try:
                operation()
            except OSError as error:
                self._failure = error
                self._raises = self._raises and not (self._is_terminal and error.errno == errno.EIO)
                self._discard_buffer()
        if self._failure is not None and self._raises and threading.current_thread() is threading.main_thread():
            self._raises = False
            raise OutputLost(self._failure)

    def _discard_buffer(self) -> None:
        """Redirect the stream to the null device, or the interpreter would fail to flush it when it ends."""
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)


@contextmanager
def guard_streams() -> Iterator[None]:
    """Replace the standard streams by a `StandardStream` each; characters that a locale lacks become ``?``."""
    _open_closed_streams()
    before = sys.stdout, sys.stderr
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.stdout = cast(TextIO, StandardStream(before[0], required=True))
    sys.stderr = cast(TextIO, StandardStream(before[1], required=False))
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OutputLost):
                stream.flush()
        sys.stdout, sys.stderr = before


def _open_closed_streams() -> None:
    """Open the null device in place of closed streams, or the next file would get the number of one of them."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)
