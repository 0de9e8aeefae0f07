"""Images of digits among fragments of other digits, in random colours: the data of the built-in example `clutter`.

Made in a second from scikit-learn's digits, like the cluttered MNIST of Mnih et al. 2014 (arXiv 1406.6247).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from blendsearch.data.split import ArraySplit

SIDE = 16
"""Height and width of an image, in pixels."""

SIZES = (8, 9, 10, 11, 12)
"""Sides to which the digit is enlarged."""

FRAGMENTS, FRAGMENT_SIDE = 3, 5
"""Number of fragments in an image, and the side of each."""

DARKEST, NOISE = 0.35, 0.05
"""Largest value of the background, and standard deviation of the noise, of values in [0, 1]."""

BRIGHTEST = 0.5
"""Smallest value of the digit and of the fragments."""

DIGITS = {"train": 900, "val": 300, "test": 597}
"""Original digits of each split; no digit is in two."""

IMAGES = {"train": 6000, "val": 1000, "test": 4000}

Array = NDArray[np.float32]


def make_splits(digits: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, ArraySplit]:
    """Make the three splits out of the 1,797 `digits` (n, 8, 8), from 0 to 1; the same ones in every run."""
    rng = np.random.Generator(np.random.PCG64(0))
    splits = {}
    for name, chosen in draw_digits(len(labels), rng).items():
        splits[name] = ArraySplit(*make_images(digits[chosen], labels[chosen], IMAGES[name], rng))
    return splits


def draw_digits(count: int, rng: np.random.Generator) -> dict[str, NDArray[np.int64]]:
    """Draw the numbers of the digits of each split."""
    ends = np.cumsum(list(DIGITS.values()))[:-1]
    return dict(zip(DIGITS, np.split(rng.permutation(count), ends), strict=True))


def make_images(
    digits: NDArray[np.float64], labels: NDArray[np.int64], count: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Make `count` images (count, 16, 16, 3) with their labels.

    Every image has a digit of any size at any place, fragments of other digits below it, and noise. Each digit is used
    about equally often.
    """
    chosen = rng.permutation(np.arange(count) % len(digits))
    background = DARKEST * rng.random((count, 1, 1, 3), dtype=np.float32)
    images = np.broadcast_to(background, (count, SIDE, SIDE, 3)).copy()
    for _ in range(FRAGMENTS):
        _paint(images, _cut_fragments(digits, count, rng), rng)
    sizes = rng.integers(len(SIZES), size=count)
    for index, size in enumerate(SIZES):
        places = np.flatnonzero(sizes == index)
        part = images[places]
        _paint(part, _enlarge(digits[chosen[places]], size), rng)
        images[places] = part
    images += NOISE * rng.standard_normal(images.shape, dtype=np.float32)
    return np.clip(images * 255, 0, 255).astype(np.uint8), labels[chosen]


def _cut_fragments(digits: NDArray[np.float64], count: int, rng: np.random.Generator) -> Array:
    """Cut a square out of a random digit for every image."""
    windows = np.lib.stride_tricks.sliding_window_view(digits, (FRAGMENT_SIDE, FRAGMENT_SIDE), axis=(1, 2))
    top, left = rng.integers(windows.shape[1], size=(2, count))
    cut = windows[rng.integers(len(digits), size=count), top, left]
    return np.asarray(cut, dtype=np.float32)


def _enlarge(digits: NDArray[np.float64], size: int) -> Array:
    """Enlarge by linear interpolation in both directions."""
    side = digits.shape[1]
    places = ((np.arange(size) + 0.5) * side / size - 0.5).clip(0, side - 1)
    weights = np.maximum(0, 1 - abs(places[:, None] - np.arange(side)))
    return np.asarray(weights @ digits @ weights.T, dtype=np.float32)


def _paint(images: Array, shapes: Array, rng: np.random.Generator) -> None:
    """Paint `shapes`, of opacities, in place: each in a random colour at a random place of its image."""
    count, size = shapes.shape[:2]
    top, left = rng.integers(SIDE - size + 1, size=(2, count))
    rows, columns = (first[:, None] + np.arange(size) for first in (top, left))
    places = np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]
    opacity = shapes[..., None]
    colour = BRIGHTEST + (1 - BRIGHTEST) * rng.random((count, 1, 1, 3), dtype=np.float32)
    images[places] = images[places] * (1 - opacity) + colour * opacity
