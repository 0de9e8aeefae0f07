"""Pairs of all images and all targets, as arrays or lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from blendsearch.data.conversion import describe_type
from blendsearch.errors import DataError


def get_array_pair(source: Any) -> tuple[Any, Any] | None:
    """Return images and targets where `source` is a pair of them: arrays, or lists of one entry per image."""
    if not isinstance(source, tuple | list) or len(source) != 2:
        return None
    images, targets = source
    if not isinstance(images, np.ndarray | Tensor) or images.ndim < 3 or not hasattr(targets, "__len__"):
        return None  # with fewer dimensions it is one sample: an image and its target
    if isinstance(targets, list | tuple) and targets and isinstance(targets[0], Tensor):
        targets = torch.stack(list(targets))
    elif not isinstance(targets, np.ndarray | Tensor):
        targets = np.asarray(targets)
    return (images, targets) if targets.ndim and (images.ndim == 4 or len(images) == len(targets)) else None


def check_targets(source: Any, name: str) -> None:
    """Raise DataError for a pair of an array of images and targets that are no array or list."""
    if isinstance(source, tuple | list) and len(source) == 2 and getattr(source[0], "ndim", 0) == 4:
        raise DataError(
            f"the {name} targets are {describe_type(source[1])}: expected an array or a list with one entry per image"
        )


def zip_image_list(source: Any) -> Any:
    """Return samples where `source` is a pair of a list of images and their targets; else `source` itself."""
    if not isinstance(source, tuple | list) or len(source) != 2:
        return source
    images, targets = source
    if not isinstance(images, list | tuple) or not hasattr(targets, "__len__") or len(images) != len(targets):
        return source
    are_images = all(isinstance(item, Image.Image) or getattr(item, "ndim", 0) >= 2 for item in images)
    return list(zip(images, targets, strict=True)) if images and are_images else source
