"""Samples that are read one at a time, with random numbers that depend on the sample and its seed alone."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from blendsearch.data.conversion import convert_image, convert_labels, convert_to_array
from blendsearch.data.split import Indices, Inputs, Labels, Split, resolve_view
from blendsearch.errors import DataError, format_error
from blendsearch.task import seed_rngs

Batch = tuple[Inputs, Labels | None]
"""Images (n, height, width, channels), and their targets, or None where the split's labels are the targets."""


class SampledSplit(ABC):
    """Base of splits whose images are read one at a time, each with a seed.

    Evaluation reads an image with its index as seed, so that every read is equal. Training reads it with a new seed in
    every epoch. Classes are those of `labels`. Other targets come from the sample, as a transform may change both.

    Attributes
    ----------
    name: the split's name in messages.
    workers: number of processes that the user's DataLoader asks for; None without one.
    reads_on_demand: True if evaluation reads samples too, False if it uses images in memory.
    has_training_transforms: True if images change with their seed.
    """

    labels: Labels
    name: str
    workers: int | None = None
    reads_on_demand = True
    has_training_transforms = True
    _shape: tuple[int, ...]
    _dtype: np.dtype[Any]

    @abstractmethod
    def open_sample(self, index: int, training: bool) -> tuple[Any, Any]:
        """Return an image of any accepted kind, and its target, or None where the labels are the targets."""

    @property
    def shape(self) -> tuple[int, int, int]:
        height, width, channels = self._shape
        return height, width, channels

    def __len__(self) -> int:
        return len(self.labels)

    def load_images(self, indices: Indices) -> Inputs:
        return self.load_batch(indices, None)[0]

    def load_batch(self, indices: Indices, seeds: Indices | None) -> Batch:
        """Read images for training with `seeds` (n,), or for evaluation without. Raises DataError."""
        images = np.empty((len(indices), *self._shape), dtype=self._dtype)
        targets = []
        with isolate_rngs():
            for row, index in enumerate(indices.tolist()):
                seed = index if seeds is None else int(seeds[row])
                image, target = self._read_sample(index, seed, seeds is not None)
                if image.shape != self._shape or image.dtype != self._dtype:
                    raise DataError(
                        f"{self.describe_sample(index)} has shape {image.shape} of {image.dtype}, the first one "
                        f"{self._shape} of {self._dtype}: expected the same of all; resize and crop them in the "
                        "transform"
                    )
                images[row] = image
                targets.append(target)
        return images, _stack_targets(targets, self.labels)

    def describe_sample(self, index: int) -> str:
        """Name a sample in a message."""
        return f"item {index} of the {self.name} data"

    def read_first(self, training: bool = False) -> NDArray[Any]:
        """Read the first image with seed 0."""
        with isolate_rngs():
            return self._read_sample(0, 0, training)[0]

    def _read_sample(self, index: int, seed: int, training: bool) -> tuple[NDArray[Any], Any]:
        set_seeds(seed)
        try:
            image, target = self.open_sample(index, training)
            return convert_image(image, self.name), None if _is_class_label(self.labels) else target
        except DataError as error:
            where = self.describe_sample(index)
            text = str(error)
            raise error if text.startswith(where) else DataError(f"{where}: {text}") from error
        except Exception as error:  # a user-defined data set or transform may raise anything
            raise DataError(
                f"{self.describe_sample(index)} cannot be read ({format_error(error)}); correct it, or the code that "
                "reads it"
            ) from error


def load_batch(split: Split, indices: Indices, seeds: Indices | None) -> Batch:
    """Read images of any split: for training with `seeds` where it has training transforms, else for evaluation."""
    source, rows = resolve_view(split, indices)
    if isinstance(source, SampledSplit):
        return source.load_batch(rows, seeds)
    return source.load_images(rows), None


def get_source(split: Split) -> Split:
    """Return the split behind a view, or `split` itself."""
    return resolve_view(split, np.zeros(0, dtype=np.int64))[0]


def has_training_transforms(split: Split) -> bool:
    """Return True if training reads other images than evaluation."""
    return getattr(get_source(split), "has_training_transforms", False)


def reads_on_demand(split: Split) -> bool:
    """Return True if images are not in memory."""
    return getattr(get_source(split), "reads_on_demand", False)


@contextmanager
def isolate_rngs() -> Iterator[None]:
    """Restore the global generators after this context, except in a worker process, which has no others."""
    if get_worker_info() is not None:
        yield
        return
    with seed_rngs(0):
        yield


def set_seeds(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch; those of CUDA only if this process uses it."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)


def _is_class_label(labels: Labels) -> bool:
    return labels.ndim == 1 and labels.dtype.kind == "i"


def _stack_targets(targets: list[Any], labels: Labels) -> Labels | None:
    if _is_class_label(labels) or not targets or any(target is None for target in targets):
        return None
    try:
        stacked = np.stack([convert_to_array(target) for target in targets])
    except (TypeError, ValueError) as error:
        raise DataError(
            f"targets cannot be stacked ({format_error(error)}): expected an array of one shape per image"
        ) from error
    return convert_labels(stacked).astype(labels.dtype, copy=False)
