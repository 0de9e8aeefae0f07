"""Splits over a user-defined Dataset that does not fit in memory: images are read on demand and not kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Subset

from blendsearch.data.split import Indices, Inputs, Labels
from blendsearch.errors import DataError
from blendsearch.task import seed_rngs


class StreamedSplit:
    """Images of a Dataset, read one by one through its transform with the index as seed, so every read is equal.

    `convert` turns an item's image into an array (height, width, channels), uint8 or float32. Every evaluation applies
    the transform again, which is slow where the transform is.
    """

    def __init__(self, dataset: Any, labels: Labels, convert: Callable[[Any], NDArray[Any]]) -> None:
        self.dataset = dataset
        self.labels = labels
        self._convert = convert
        first = self._read_image(0)
        self._shape, self._dtype = first.shape, first.dtype

    @property
    def shape(self) -> tuple[int, int, int]:
        height, width, channels = self._shape
        return height, width, channels

    def __len__(self) -> int:
        return len(self.labels)

    def load_images(self, indices: Indices) -> Inputs:
        images = np.empty((len(indices), *self._shape), dtype=self._dtype)
        for row, index in enumerate(indices):
            image = self._read_image(int(index))
            if image.shape != self._shape:
                raise DataError(
                    f"image {index} has shape {image.shape}, the first one {self._shape}: expected the same of all; "
                    "resize and crop them in the transform"
                )
            images[row] = image
        return images

    def _read_image(self, index: int) -> NDArray[Any]:
        with seed_rngs(index):
            return self._convert(self.dataset[index][0])


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
