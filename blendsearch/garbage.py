"""Large imports without garbage collection: what a module defines stays, and looking through it takes long."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def pause_garbage_collection(*, freeze: bool = False) -> Iterator[None]:
    """Pause the collection of reference cycles.

    With `freeze`, later collections ignore all objects that exist at the end, until the process ends. It is for a
    process that is ours.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if freeze:
            gc.freeze()
            atexit.register(gc.unfreeze)  # so that libraries find no leaks at the end
        if was_enabled:
            gc.enable()
