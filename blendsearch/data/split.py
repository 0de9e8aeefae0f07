"""Sources of images: memory, a folder, or a view of either."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import get_worker_info

from blendsearch.data.pixel_depth import convert_pixels
from blendsearch.errors import DataError, format_reason

Pixels = NDArray[np.uint8]
Inputs = NDArray[Any]
"""uint8 pixels, or float32 inputs that a user-defined transform has prepared for the network."""
Labels = NDArray[Any]
"""int64 classes, (N,), or targets of a user-defined loss, (N, ...)."""
Indices = NDArray[np.int64]

MAX_CLASS = 1_000_000
"""Largest accepted class number. Class counts size arrays, so an identifier used as a label would exhaust memory."""

MAX_PIXELS = 2**26
"""Pixels of the largest image that is decoded, 192 MiB: several are decoded at a time."""

IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats by content. Pillow knows others, of which EPS would be run by Ghostscript."""

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) of a part of an image."""

DECODER_THREADS = min(8, os.cpu_count() or 1)


class Split(Protocol):
    """Images of one split, addressed by position 0..N-1."""

    @property
    def labels(self) -> Labels:
        """Class of every image, (N,), or targets of another kind, (N, ...)."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every image."""

    def __len__(self) -> int: ...

    def load_images(self, indices: Indices) -> Inputs:
        """Return a new array (n, height, width, channels), in the order of `indices`.

        uint8 pixels are normalised before the network receives them; float32 inputs are passed on unchanged.
        """


def is_preprocessed(split: Split) -> bool:
    """Return True if the images are float32 inputs that the network takes unchanged."""
    return split.load_images(np.zeros(0, dtype=np.int64)).dtype != np.uint8


class ArraySplit:
    """Images in memory: (N, height, width, channels) uint8 with labels (N,)."""

    def __init__(self, images: Pixels, labels: Labels) -> None:
        self._images = images
        self.labels = labels

    @property
    def shape(self) -> tuple[int, int, int]:
        _, height, width, channels = self._images.shape
        return height, width, channels

    def __len__(self) -> int:
        return len(self.labels)

    def load_images(self, indices: Indices) -> Pixels:
        return np.take(self._images, indices, axis=0)


class PreprocessedSplit:
    """Network inputs in memory: float32 (N, channels, height, width)."""

    def __init__(self, inputs: NDArray[np.float32], labels: Labels) -> None:
        self._inputs = inputs
        self.labels = labels

    @property
    def shape(self) -> tuple[int, int, int]:
        _, channels, height, width = self._inputs.shape
        return height, width, channels

    def __len__(self) -> int:
        return len(self.labels)

    def load_images(self, indices: Indices) -> Inputs:
        # channels last by strides only: moving them back to the front copies nothing
        return np.take(self._inputs, indices, axis=0).transpose(0, 2, 3, 1)


class FolderSplit:
    """Image files, decoded to RGB on demand and not kept.

    With `image_size`, the shorter side is resized to 256/224 of it and the centre square is cut out. Without it, all
    files must have the size of the first. Decoding raises DataError with the name of a file that cannot be read.
    """

    reads_on_demand = True

    def __init__(self, files: Sequence[Path], labels: Labels, image_size: int | None) -> None:
        self.files = files
        self.labels = labels
        self._size = image_size
        self._shape = (image_size, image_size, 3) if image_size else decode(files[0], None).shape

    @property
    def shape(self) -> tuple[int, int, int]:
        height, width, channels = self._shape
        return height, width, channels

    def __len__(self) -> int:
        return len(self.files)

    def load_images(self, indices: Indices) -> Pixels:
        images = np.empty((len(indices), *self._shape), dtype=np.uint8)

        def fill(row: int) -> None:
            file = self.files[indices[row]]
            pixels = decode(file, self._size)
            if pixels.shape != self._shape:
                raise DataError(
                    f"{file}: the image is {pixels.shape[1]}x{pixels.shape[0]}, expected {self._shape[1]}x"
                    f"{self._shape[0]} like the first of its split; set data.image_size to resize all images"
                )
            images[row] = pixels

        if get_worker_info() is not None:
            for row in range(len(indices)):  # the other processors have workers of their own
                fill(row)
            return images
        # a pool per call costs microseconds, and the split stays picklable
        with ThreadPoolExecutor(min(DECODER_THREADS, max(len(indices), 1))) as pool:
            for _ in pool.map(fill, range(len(indices))):
                pass
        return images

    def open_image(self, index: int) -> Image.Image:
        """Decode an image to RGB at its full size. Raises DataError."""
        return open_image(self.files[index])


class Subset:
    """A view of some images of a split; a view of a view addresses the images directly."""

    def __init__(self, split: Split, indices: Indices) -> None:
        self.split: Split = split.split if isinstance(split, Subset) else split
        self.indices: Indices = split.indices[indices] if isinstance(split, Subset) else indices
        self.labels: Labels = split.labels[indices]

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.split.shape

    def __len__(self) -> int:
        return len(self.indices)

    def load_images(self, indices: Indices) -> Inputs:
        return self.split.load_images(self.indices[indices])


def resolve_view(split: Split, indices: Indices) -> tuple[Split, Indices]:
    """Return the split behind a view and the positions there, or both unchanged."""
    return (split.split, split.indices[indices]) if isinstance(split, Subset) else (split, indices)


def decode(file: Path, image_size: int | None) -> Pixels:
    """Decode an image to (height, width, 3) uint8; grey and palette images become RGB, 16 bits 8. Raises DataError.

    With `image_size`, a JPEG file of at least twice the size needed is decoded at a half, a quarter or an eighth of its
    size, which is faster.
    """
    rgb, size, box = _open_rgb(file, image_size)
    if image_size is not None:
        rgb = rgb.resize(size, Image.Resampling.BILINEAR, box)
        left, top = (size[0] - image_size) // 2, (size[1] - image_size) // 2
        rgb = rgb.crop((left, top, left + image_size, top + image_size))
    return np.asarray(rgb, dtype=np.uint8)


def open_image(file: Path) -> Image.Image:
    """Decode an image to RGB at its full size. Raises DataError."""
    return _open_rgb(file, None)[0]


def _open_rgb(file: Path, image_size: int | None) -> tuple[Image.Image, tuple[int, int], Box | None]:
    """Return an RGB image, the (width, height) for `image_size`, and the part of the image to resize to that size."""
    try:
        if not file.is_file():
            raise OSError("no regular file")  # opening a pipe would wait for a writer
        with Image.open(file, formats=IMAGE_FORMATS) as image:
            _check_pixels(*image.size)
            size, drafted = image.size, None
            if image_size is not None:
                size = _compute_resized(image.size, image_size)
                drafted = image.draft("RGB", size)  # changes JPEG only, and never below `size`
            # a side that is no multiple of the factor is rounded up: the box ends where the image does
            return convert_pixels(image).convert("RGB"), size, None if drafted is None else drafted[1]
    except Exception as error:  # Pillow raises a dozen types for broken files, depending on the format
        reason = format_reason(error)
        raise DataError(f"{file}: cannot be read as an image ({reason}); replace or remove it") from error


def _compute_resized(size: tuple[int, int], image_size: int) -> tuple[int, int]:
    """Return (width, height) with the shorter side at 256/224 of `image_size`. Raises ValueError for huge results."""
    scale = round(image_size * 256 / 224) / min(size)
    # the longer side rounds below the crop only for a size of 1; max keeps the crop inside
    width, height = (max(image_size, round(side * scale)) for side in size)
    if width * height > MAX_PIXELS:
        raise ValueError(f"an image of {size[0]}x{size[1]} is too narrow to be resized")
    return width, height


def _check_pixels(width: int, height: int) -> None:
    """Raise ValueError for an image that takes gigabytes once decoded."""
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels, expected at most {MAX_PIXELS:,}")
