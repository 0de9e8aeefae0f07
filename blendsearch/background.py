"""Preparations in a second thread, while this one computes."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread

SWITCH_SECONDS = 1e-4
"""Longest time that a thread waits for the interpreter. With Python's 5 ms, each operation of torch would wait as long
for an import to give way."""


@contextmanager
def call_in_background(*functions: Callable[[], object]) -> Iterator[None]:
    """Call `functions` one after the other during the block, and wait for them at its end.

    They import modules or fill caches; what fails is tried again where it is needed. For a block that computes outside
    the interpreter, such as a training, and does not fork: a child would inherit the locks of unfinished imports.
    """
    thread = Thread(target=_call_all, args=functions, name="preparations")
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _call_all(*functions: Callable[[], object]) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        for function in functions:
            with suppress(Exception):
                function()
    finally:
        sys.setswitchinterval(interval)
