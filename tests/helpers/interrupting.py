"""The command line, with two signals that arrive within a millisecond at a chosen moment.

    python tests/helpers/interrupting.py SIGNAL MOMENT front ...

Moments: ``import NAME`` (before this module is imported), ``call MODULE:NAME`` (before this function is called for the
first time), ``exit`` (while the interpreter ends), ``destructor`` (within the destructor of an object, during imports).
"""

import atexit
import importlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any


class Interrupter:
    """An import hook that sends the signals before it finds `name`."""

    def __init__(self, name: str, send: Callable[[], None]) -> None:
        self._name, self._send = name, send

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == self._name:
            self._send()


class Dying:
    """An object that sends the signals when it dies."""

    def __init__(self, send: Callable[[], None]) -> None:
        self._send = send

    def __del__(self) -> None:
        self._send()


def arrange(number: signal.Signals, moment: str) -> None:
    sent: list[bool] = []

    def send() -> None:
        if not sent:
            sent.append(True)
            for _ in range(2):
                os.kill(os.getpid(), number)

    kind, _, name = moment.partition(" ")
    if kind == "import":
        sys.meta_path.insert(0, Interrupter(name, send))  # type: ignore[arg-type]
    elif kind == "destructor":
        sys.meta_path.insert(0, Interrupter("torch", lambda: str(Dying(send))))  # type: ignore[arg-type]
    elif kind == "exit":
        atexit.register(send)
    else:
        module, _, function = name.partition(":")
        owner: Any = importlib.import_module(module)
        *classes, function = function.split(".")
        for item in classes:
            owner = getattr(owner, item)
        original = getattr(owner, function)

        def wrapped(*arguments: Any, **named: Any) -> Any:
            send()
            return original(*arguments, **named)

        setattr(owner, function, wrapped)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in a shell's background
    arrange(signal.Signals[sys.argv[1]], sys.argv[2])
    del sys.argv[1:3]
    from blendsearch.cli.main import main

    main()
