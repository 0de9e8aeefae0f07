"""Start of the processes that read images, safe beside threads, Ray and unguarded scripts."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import pickle
import sys
import threading
import warnings
from collections.abc import Iterator
from multiprocessing import context, popen_forkserver, spawn
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from blendsearch.data.split import Split
from blendsearch.errors import format_reason

Workers = int | Literal["auto"]

MAX_AUTO_WORKERS = 8
MAX_PICKLE_BYTES = 128 * 2**20
"""Largest data set, pickled, that is copied to every process."""

SHARED_MEMORY = "/dev/shm"


def resolve_workers(asked: Workers, device: torch.device) -> int:
    """Return the number of processes that read images: at most one per processor, 0 inside a daemonic process.

    ``auto`` follows the threads of torch, which an engine sets to each worker's share of the machine. A single thread
    on a CPU reads the images itself.
    """
    if multiprocessing.current_process().daemon or "forkserver" not in multiprocessing.get_all_start_methods():
        return 0
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if asked != "auto":
        return min(asked, processors)
    threads = torch.get_num_threads()
    if threads == 1 and device.type == "cpu":
        return 0
    return min(threads, processors, MAX_AUTO_WORKERS)


def limit_by_shared_memory(workers: int, batch_bytes: int) -> int:
    """Return the number of processes whose batches in flight fit in half of the free shared memory."""
    batches = _get_free_shared_memory() // 2 // max(1, batch_bytes)
    fitting = int(min(workers, max(0, batches - 1) // 2))
    if fitting < workers:
        warnings.warn(
            f"{SHARED_MEMORY} has room for the batches of {fitting} of {workers} data workers: enlarge it (docker run "
            "--shm-size), or set data.workers",
            stacklevel=2,
        )
    return fitting


def _get_free_shared_memory() -> int:
    if not os.path.isdir(SHARED_MEMORY):
        return sys.maxsize
    state = os.statvfs(SHARED_MEMORY)
    return state.f_bavail * state.f_frsize


def choose_context(split: Split) -> context.BaseContext | None:
    """Choose how processes that read `split` start; None if they must not. Warns once about a split.

    A server process without threads forks them (``forkserver``). A data set that it cannot receive, such as one of a
    notebook or of a script itself, needs a fork of this process, which is unsafe beside the threads of Ray.
    """
    known = split in _obstacles
    if not known:
        _obstacles[split] = _find_obstacle(split)
    reason = _obstacles[split]
    if reason is None:
        return _ServerContext()
    safe = "ray" not in sys.modules
    if not known:
        how = "a fork of this process reads it" if safe else "it is read in this process, without data.workers"
        warnings.warn(f"the data set {reason}, so {how}; define it in a module of its own", stacklevel=2)
    return multiprocessing.get_context("fork") if safe else None


_obstacles: WeakKeyDictionary[Split, str | None] = WeakKeyDictionary()
"""Why another process cannot receive a split, or None."""


def _find_obstacle(split: Split) -> str | None:
    """Return why another process cannot receive `split`, or None."""
    sink = _Sink()
    pickler = _Pickler(sink)
    try:
        pickler.dump(split)
    except _TooLargeError:
        return f"has more than {MAX_PICKLE_BYTES // 2**20} MiB in memory"
    except Exception as error:  # a user-defined object may raise anything
        return f"cannot be pickled ({format_reason(error)})"
    if pickler.tensor_bytes > _get_free_shared_memory() // 4:
        return f"has tensors of {pickler.tensor_bytes // 2**20} MiB, too many for the shared memory"
    return "is defined in the main script or notebook" if sink.names_main else None


class _TooLargeError(Exception):
    pass


class _Sink(io.RawIOBase):
    """Counts bytes, and notices the name of the main module."""

    def __init__(self) -> None:
        self.nbytes, self.names_main = 0, False

    def write(self, data: Any) -> int:
        content = bytes(data)
        self.nbytes += len(content)
        self.names_main |= b"__main__" in content
        if self.nbytes > MAX_PICKLE_BYTES:
            raise _TooLargeError
        return len(content)


class _Pickler(pickle.Pickler):
    """Counts the bytes of tensors, which reach other processes through shared memory, and does not write them."""

    tensor_bytes = 0

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        if value.device.type != "cpu":
            raise TypeError(f"it holds a tensor on {value.device}")
        self.tensor_bytes += value.nbytes
        return int, ()


def exit_with_parent(_: int) -> None:
    """End this process when the one that uses it ends, however that ends.

    The loader's own check sees only the server, which lives as long as the processes that it forked.
    """
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


_state = threading.local()
_prepare = spawn.get_preparation_data


def _prepare_without_main(name: str) -> dict[str, Any]:
    data: dict[str, Any] = _prepare(name)
    hidden = getattr(_state, "hides_main", False)
    return {key: value for key, value in data.items() if not (hidden and key.startswith("init_main"))}


@contextlib.contextmanager
def _hide_main() -> Iterator[None]:
    """Keep children that this thread starts from importing the main script, which would run it again."""
    spawn.get_preparation_data = _prepare_without_main
    _state.hides_main = True
    try:
        yield
    finally:
        _state.hides_main = False


class _ServerPopen(popen_forkserver.Popen):
    def _launch(self, process_obj: Any) -> None:
        with _hide_main():
            super()._launch(process_obj)  # type: ignore[misc]


class _ServerProcess(context.ForkServerProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        return _ServerPopen(process_obj)


class _ServerContext(context.ForkServerContext):
    Process = _ServerProcess

    def __init__(self) -> None:
        super().__init__()
        self.set_forkserver_preload(["blendsearch.data.image_loader", "torchvision.transforms.v2"])
