"""Random, label-preserving changes of training images, chosen by name in the config.

An augmentation is a decorated function from a batch to a batch of the same shape, type and device. All random numbers
come from the NumPy generator that it receives, so the same generator state gives the same images on every device.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from blendsearch.errors import ConfigError
from blendsearch.transfer import send

Augmentation = Callable[[Tensor, np.random.Generator], Tensor]

AUGMENTATIONS: dict[str, Augmentation] = {}


def register_augmentation(name: str) -> Callable[[Augmentation], Augmentation]:
    """Register a function (images of shape (N, C, H, W), uint8 or float; generator) -> new images of that shape."""

    def register(function: Augmentation) -> Augmentation:
        AUGMENTATIONS[name] = function
        return function

    return register


def resolve_augmentations(names: Sequence[str]) -> tuple[Augmentation, ...]:
    """Return the augmentations with these names, in this order. Raises ConfigError for an unknown name."""
    for name in names:
        if name not in AUGMENTATIONS:
            close = difflib.get_close_matches(name, AUGMENTATIONS, n=1)
            raise ConfigError(
                f"augmentation {name!r} is unknown; expected one of {', '.join(sorted(AUGMENTATIONS))}"
                + (f"; did you mean {close[0]!r}?" if close else "")
            )
    return tuple(AUGMENTATIONS[name] for name in names)


@register_augmentation("flip")
def flip(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Mirror each image left to right with probability 0.5. Not suitable for digits or letters."""
    mirrored = send(torch.from_numpy(rng.random(len(images)) < 0.5), images.device)
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


@register_augmentation("crop")
def crop(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Pad each side by an eighth of the image size with zeros and cut a random window of the original size.

    He et al. 2015 pad by 4 pixels at 32x32.
    """
    top, left = (max(1, round(side / 8)) for side in images.shape[2:])
    return crop_randomly(functional.pad(images, (left, left, top, top)), images.shape[2:], rng)


@register_augmentation("crop-reflect")
def crop_reflect(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Like `crop`, but pad with a mirror image of the border."""
    top, left = (min(side - 1, max(1, round(side / 8))) for side in images.shape[2:])
    return crop_randomly(pad_by_index(images, top, left, "reflect"), images.shape[2:], rng)


@register_augmentation("shift")
def shift(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Move each image by at most one pixel in each direction and repeat its border; for small grey images like
    digits.
    """
    return crop_randomly(pad_by_index(images, 1, 1, "edge"), images.shape[2:], rng)


def crop_randomly(padded: Tensor, size: Sequence[int], rng: np.random.Generator) -> Tensor:
    """Cut one window of `size` (height, width) out of each image, at a position drawn uniformly per image."""
    height, width = size
    # unfold is a view of every window; indexing it copies only the chosen ones.
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    count, _, rows, columns = windows.shape[:4]
    top = send(torch.from_numpy(rng.integers(rows, size=count)), padded.device)
    left = send(torch.from_numpy(rng.integers(columns, size=count)), padded.device)
    return windows[torch.arange(count, device=padded.device), :, top, left].contiguous()


def pad_by_index(images: Tensor, top: int, left: int, mode: str) -> Tensor:
    """Pad the height by `top` and the width by `left` on both sides. Unlike torch's padding, this accepts uint8."""
    rows, columns = (
        send(torch.from_numpy(np.pad(np.arange(side), margin, mode=mode)), images.device)  # type: ignore[call-overload]
        for side, margin in zip(images.shape[2:], (top, left), strict=True)
    )
    return images[:, :, rows][:, :, :, columns]
