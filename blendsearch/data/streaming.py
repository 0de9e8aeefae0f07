"""Splits over a user-defined Dataset whose items are read when they are needed."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Subset

from blendsearch.data.conversion import convert_image, unpack_sample
from blendsearch.data.sampling import Batch, SampledSplit, isolate_rngs, set_seeds
from blendsearch.data.split import Indices, Labels, Split

PROBED_ITEMS = 8
"""Items that `changes_by_seed` reads with two seeds. A flip alone is missed with a probability of 0.4 %."""


class StreamedSplit(SampledSplit):
    """Images of a Dataset that does not fit in memory, read through its transform for every use."""

    def __init__(self, dataset: Any, labels: Labels, name: str, workers: int | None = None) -> None:
        self.dataset = dataset
        self.labels = labels
        self.name = name
        self.workers = workers
        first = self.read_first()
        self._shape, self._dtype = first.shape, first.dtype

    def open_sample(self, index: int, training: bool) -> tuple[Any, Any]:
        return unpack_sample(self.dataset[index], self.name)


class AugmentedSplit(SampledSplit):
    """Images of a Dataset with random transforms: training reads its items anew, evaluation uses `memory`.

    `memory` holds one reading of all items.
    """

    reads_on_demand = False

    def __init__(self, dataset: Any, memory: Split, name: str, workers: int | None = None) -> None:
        self.dataset = dataset
        self.memory = memory
        self.labels = memory.labels
        self.name = name
        self.workers = workers
        self._shape = memory.shape
        self._dtype = memory.load_images(np.zeros(0, dtype=np.int64)).dtype

    def load_batch(self, indices: Indices, seeds: Indices | None) -> Batch:
        return (self.memory.load_images(indices), None) if seeds is None else super().load_batch(indices, seeds)

    def open_sample(self, index: int, training: bool) -> tuple[Any, Any]:
        return unpack_sample(self.dataset[index], self.name)


def changes_by_seed(dataset: Any, name: str) -> bool:
    """Return True if an item's image changes with the seed of the global generators: its transforms are random.

    Warns if it also changes with the same seed, as training then cannot be repeated.
    """

    def read(index: int, seed: int) -> NDArray[Any]:
        set_seeds(seed)
        return convert_image(unpack_sample(dataset[index], name)[0], name)

    with isolate_rngs():
        for index in np.linspace(0, len(dataset) - 1, min(PROBED_ITEMS, len(dataset))).round().astype(int).tolist():
            first, second = read(index, 2 * index), read(index, 2 * index + 1)
            if not np.array_equal(first, second):
                if not np.array_equal(first, read(index, 2 * index)):
                    warnings.warn(
                        f"item {index} of the {name} data differs between two reads with the same seed: its transform "
                        "has a generator of its own, so training cannot be repeated; use random, numpy.random or torch",
                        stacklevel=2,
                    )
                return True
    return False


def get_declared_labels(dataset: Any) -> NDArray[np.int64] | None:
    """Return the class of every image, (N,), if the dataset lists them in `targets` without reading images.

    Returns None if it does not, or if a `target_transform` changes them.
    """
    if isinstance(dataset, Subset):
        whole = get_declared_labels(dataset.dataset)
        return None if whole is None else whole[np.asarray(dataset.indices, dtype=np.int64)]
    if getattr(dataset, "target_transform", None) is not None:
        return None
    found = getattr(dataset, "targets", None)
    if isinstance(found, Tensor):
        found = found.cpu().numpy()
    if not isinstance(found, list | tuple | np.ndarray) or len(found) != len(dataset):
        return None
    try:
        labels = np.asarray(found)
    except ValueError:
        return None
    return labels.astype(np.int64) if labels.ndim == 1 and labels.dtype.kind in "iu" else None
