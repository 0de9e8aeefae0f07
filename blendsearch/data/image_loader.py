"""Batches of splits that are not in memory, read ahead by processes of a torch DataLoader.

Every request names its images and their seeds, so a batch does not depend on the process that reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from blendsearch.data.sampling import load_batch
from blendsearch.data.split import Indices, Split
from blendsearch.data.worker_processes import (
    Workers,
    choose_context,
    exit_with_parent,
    limit_by_shared_memory,
    resolve_workers,
)
from blendsearch.errors import DataError, format_error

MIN_WORKER_IMAGES = 512
"""Images below which no process is started; the first start in a process takes seconds."""

PREFETCHED_BATCHES = 2
"""Batches that each process reads ahead."""

TensorBatch = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class ReadRequest:
    """Positions of a batch's images in a split, and their seeds in training; None in evaluation."""

    indices: Indices
    seeds: Indices | None


@dataclass(frozen=True)
class _Failure:
    message: str


class _Reader(Dataset[Any]):
    """Maps a request to a batch, or to the message of an error."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __getitem__(self, request: ReadRequest) -> TensorBatch | _Failure:
        try:
            return read_request(self.split, request)
        except DataError as error:
            return _Failure(str(error))
        except Exception as error:  # would arrive with the traceback of the process in its text
            return _Failure(f"a batch cannot be read ({format_error(error)})")


def read_request(split: Split, request: ReadRequest) -> TensorBatch:
    """Read a batch in this process. Raises DataError."""
    images, targets = load_batch(split, request.indices, request.seeds)
    return torch.from_numpy(images), None if targets is None else torch.from_numpy(targets)


def iter_requests(
    split: Split, requests: Sequence[ReadRequest], workers: Workers, device: torch.device
) -> Iterator[TensorBatch]:
    """Iterate over the batches of `requests`, in their order. Raises DataError.

    Batches of one image, of which callers often take the first alone, are read in this process.
    """
    loader = _make_loader(split, requests, workers, device)
    if loader is None:
        for request in requests:
            yield read_request(split, request)
    else:
        yield from _iter_loader(loader)


def _make_loader(
    split: Split, requests: Sequence[ReadRequest], workers: Workers, device: torch.device
) -> DataLoader[Any] | None:
    """Make a loader with processes; None where this process reads the images itself."""
    preferred = getattr(split, "workers", None)
    count = resolve_workers(preferred if workers == "auto" and preferred is not None else workers, device)
    images = sum(len(request.indices) for request in requests)
    if count == 0 or images < MIN_WORKER_IMAGES or len(requests) < 2 or len(requests[0].indices) < 2:
        return None
    empty = split.load_images(np.zeros(0, dtype=np.int64))
    batch_bytes = len(requests[0].indices) * int(np.prod(split.shape)) * empty.itemsize
    count = limit_by_shared_memory(min(count, len(requests)), batch_bytes)
    context = choose_context(split) if count else None
    if context is None:
        return None
    return DataLoader(
        _Reader(split),
        batch_size=None,
        sampler=requests,
        num_workers=count,
        collate_fn=_pass_through,
        pin_memory=device.type == "cuda",
        prefetch_factor=PREFETCHED_BATCHES,
        multiprocessing_context=context,
        worker_init_fn=exit_with_parent,
        generator=torch.Generator(),  # without one, the loader draws from torch's global stream
    )


def _iter_loader(loader: DataLoader[Any]) -> Iterator[TensorBatch]:
    iterator: Any = iter(loader)
    try:
        for batch in _translate_errors(iterator):
            if isinstance(batch, _Failure):
                raise DataError(batch.message)
            yield tuple(batch)
    finally:
        iterator._shutdown_workers()  # also where the caller stops half-way


def _translate_errors(iterator: Iterator[Any]) -> Iterator[Any]:
    """Iterate, and raise DataError where a process ended."""
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:  # from the loader, or from a connection to the process
            raise DataError(
                f"a process that reads images ended ({format_error(error)}); set data.workers to 0 to see why"
            ) from error
        yield batch


def _pass_through(batch: Any) -> Any:
    return batch
