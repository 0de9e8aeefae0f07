"""Signals that stop a command: Ctrl-C, SIGTERM, and SIGHUP of a terminal that is closed."""

import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

STOPPED = 130
"""Exit code of a command that a signal stopped."""

PATIENCE = 2.0
"""Seconds after a signal in which further ones count as the same; a later one ends the process at once."""


class SignalGuard:
    """Converts the first signal into a KeyboardInterrupt and ignores those that follow shortly.

    A signal that the process ignored from its start (under nohup, or in the background of a script) stays ignored.

    Attributes
    ----------
    received: True once a signal arrived.
    """

    def __init__(self) -> None:
        self.received = False
        self._since: float | None = None
        self._ending = False
        self._before: dict[signal.Signals, Any] = {}
        self._hooks = sys.excepthook, sys.unraisablehook

    def install(self) -> None:
        """Handle the signals of this process; does nothing outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return
        sys.excepthook, sys.unraisablehook = self._report_exception, self._report_unraisable
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)

    def restore(self) -> None:
        """Restore the handlers and hooks that `install` replaced."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        sys.excepthook, sys.unraisablehook = self._hooks

    def end(self) -> None:
        """Begin the end of the command: its exit code is decided, and signals raise no more exceptions."""
        self._ending = True
        if self._since is None:
            self._since = time.monotonic()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._since is None:
            self._since, self.received = time.monotonic(), True
            raise KeyboardInterrupt
        if time.monotonic() - self._since > PATIENCE:
            if not self._ending:
                os.write(2, b"blendsearch: stopped at once; finished evaluations are stored\n")
            os._exit(STOPPED)

    def _report_exception(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """Print an exception, except for an interruption that compiled code prints and then replaces by another."""
        if not (self.received and issubclass(kind, KeyboardInterrupt)):
            self._hooks[0](kind, error, trace)

    def _report_unraisable(self, facts: "sys.UnraisableHookArgs") -> None:
        """Print an exception, except for an interruption that met a destructor: this is raised again."""
        if not (self.received and issubclass(facts.exc_type, KeyboardInterrupt)):
            self._hooks[1](facts)
        elif not self._ending:
            self._since = None
            again = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT))
            again.daemon = True
            again.start()
