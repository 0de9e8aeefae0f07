"""Fixed augmented views of images: the same view of an image is the same pixels, whatever batch it is in.

A network whose outputs are stored for each view can then teach another one without running again.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blendsearch.data.augment import resolve_augmentations
from blendsearch.data.batches import BatchSize, load_from_memory, move_to_input
from blendsearch.data.split import ArraySplit, Indices, Subset
from blendsearch.data.splits import Splits
from blendsearch.transfer import send

FRESH = -1
"""View number of an image that is augmented anew."""


class ViewBatch(NamedTuple):
    """A batch of training images.

    Attributes
    ----------
    images: normalised inputs, float32 (n, channels, height, width).
    labels: (n,) classes, or other targets (n, ...).
    positions: of the images in the training split, int64 (n,).
    views: number of each image's view, int64 (n,), or `FRESH`.
    """

    images: Tensor
    labels: Tensor
    positions: Indices
    views: Indices


class KeyedDraws:
    """Random numbers that depend on a seed and on one key per image only, not on the batch around it.

    Has the methods of `numpy.random.Generator` that augmentations use, for one number per image (SplitMix64 of Steele
    et al. 2014, counted by call).
    """

    def __init__(self, seed: int, positions: Indices, views: Indices) -> None:
        keys = _mix(np.uint64(seed % 2**64) + positions.astype(np.uint64))
        self._keys = _mix(keys + views.astype(np.uint64))
        self._calls = 0

    def random(self, size: int) -> NDArray[np.float64]:
        """Return uniform numbers in [0, 1), (size,)."""
        return (self._draw(size) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def integers(self, low: int, high: int | None = None, size: int = 0) -> NDArray[np.int64]:
        """Return uniform integers in [low, high), or in [0, low), (size,)."""
        least, most = (0, low) if high is None else (low, high)
        return least + np.floor(self.random(size) * (most - least)).astype(np.int64)

    def uniform(self, low: float = 0.0, high: float = 1.0, size: int = 0) -> NDArray[np.float64]:
        """Return uniform numbers in [low, high), (size,)."""
        return low + (high - low) * self.random(size)

    def standard_normal(self, size: int) -> NDArray[np.float64]:
        """Return normal numbers of mean 0 and variance 1, (size,), by Box and Muller."""
        radius = np.sqrt(-2 * np.log1p(-self.random(size)))
        turned: NDArray[np.float64] = radius * np.cos(2 * np.pi * self.random(size))
        return turned

    def _draw(self, size: int) -> NDArray[np.uint64]:
        if size != len(self._keys):
            raise ValueError(f"one number per image is drawn: expected size {len(self._keys)}, not {size}")
        self._calls += 1
        return _mix(self._keys + np.uint64(self._calls * int(GOLDEN) % 2**64))


GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the SplitMix64 hash of each key."""
    with np.errstate(over="ignore"):
        keys = keys + GOLDEN
        keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return keys ^ (keys >> np.uint64(31))


def can_load_views(splits: Splits) -> bool:
    """Return True where training images have fixed views: they are kept in memory as pixels."""
    split = splits.train.split if isinstance(splits.train, Subset) else splits.train
    return isinstance(split, ArraySplit)


def load_views(splits: Splits, positions: Indices, views: Indices, seed: int, device: torch.device) -> ViewBatch:
    """Return the given views of training images; the same seed, position and view give the same pixels.

    Only images in memory have views.
    """
    x = move_to_input(load_from_memory(splits.train, positions, device), device)
    draws = cast(Any, KeyedDraws(seed, positions, views))
    for change in resolve_augmentations(splits.augment):
        x = change(x, draws)
    labels = send(torch.from_numpy(splits.train.labels[positions]), device)
    return ViewBatch(splits.normalize(x), labels, positions, views)


def iter_view_batches(
    splits: Splits,
    size: BatchSize,
    *,
    views: int,
    seed: int,
    device: torch.device,
    rng: np.random.Generator,
    skip: int = 0,
) -> Iterator[ViewBatch]:
    """Iterate over one epoch of training images in random order, each in one of `views` views drawn by `rng`.

    All random numbers are drawn by this call, none by the iteration. The first `skip` batches are left out.
    """
    count = len(splits.train)
    order = rng.permutation(count)[: size.limit]
    chosen = rng.integers(views, size=count)[: size.limit]
    stop = len(order) - len(order) % size.batch_size if size.drop_last else len(order)

    def generate() -> Iterator[ViewBatch]:
        for start in range(skip * size.batch_size, stop, size.batch_size):
            part = slice(start, start + size.batch_size)
            positions, numbers = (size.share.select(values[part]) for values in (order, chosen))
            yield load_views(splits, positions, numbers, seed, device)

    return generate()
