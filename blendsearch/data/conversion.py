"""Conversion of user-defined images and targets to arrays and splits in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from blendsearch.data.pixel_depth import convert_pixels
from blendsearch.data.split import ArraySplit, Labels, PreprocessedSplit, Split
from blendsearch.errors import DataError


def convert_image(image: Any, name: str) -> NDArray[Any]:
    """Convert one image to (height, width, channels), uint8 or float32."""
    split = make_memory_split(convert_to_array(image)[None], np.zeros(1, dtype=np.int64), name)
    found: NDArray[Any] = split.load_images(np.zeros(1, dtype=np.int64))[0]
    return found


def unpack_sample(sample: Any, name: str) -> tuple[Any, Any]:
    """Return the image and the target of an item; None for a missing target. Raises DataError."""
    if isinstance(sample, tuple | list) and len(sample) >= 2:
        return sample[0], sample[1]
    if isinstance(sample, Tensor | np.ndarray | Image.Image):
        return sample, None
    if isinstance(sample, Mapping):
        raise DataError(
            f"the {name} data yield a dictionary of {', '.join(map(str, sample))}: name image and target by data.keys "
            "(in Python: splits={'keys': [image, target]})"
        )
    raise DataError(f"the {name} data yield a {type(sample).__name__}: expected (image, target)")


def convert_to_array(value: Any) -> NDArray[Any]:
    """Convert a value to an array. Raises ValueError for a value without a shape."""
    if isinstance(value, Tensor):
        if value.is_meta:
            raise ValueError("a tensor on the meta device has no values")
        value = value.detach().cpu()
        value = value if value.layout == torch.strided else value.to_dense()
        plain: NDArray[Any] = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
        return plain
    if isinstance(value, Image.Image):
        return np.asarray(convert_pixels(value))
    if isinstance(value, list | tuple) and value and isinstance(value[0], Tensor):
        return torch.stack(list(value)).detach().cpu().numpy()
    found = np.asarray(value)
    if found.dtype == object or found.dtype.kind in "US":
        raise ValueError(f"of {type(value).__name__}")
    return found


def describe_type(value: Any) -> str:
    """Return what kind of object a value is, with an article, for a message."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}"
    return "None" if value is None else f"a {type(value).__name__}"


def make_memory_split(images: NDArray[Any], targets: NDArray[Any], name: str) -> Split:
    if len(images) != len(targets):
        raise DataError(f"the {name} data have {len(images)} images but {len(targets)} targets; expected one per image")
    labels = convert_labels(targets)
    if images.dtype == np.uint8:
        return ArraySplit(_move_channels_last(images, name), labels)
    if images.dtype.kind != "f":
        raise DataError(
            f"the {name} images are {images.dtype}: expected float32 as the network takes it, or uint8 pixels; convert "
            "them"
        )
    if images.ndim != 4:
        raise DataError(
            f"the {name} images have shape {images.shape}: expected (images, channels, height, width) of floats; add "
            "an axis of size 1 to grey images; for sequences and volumes, add or merge axes, and undo that in forward()"
        )
    inputs = np.ascontiguousarray(images, dtype=np.float32)
    if not np.isfinite(inputs).all():
        raise DataError(f"the {name} images hold NaN or infinity: fix the transform that makes them")
    return PreprocessedSplit(inputs, labels)


def convert_labels(targets: NDArray[Any]) -> Labels:
    kinds = {"i": np.int64, "u": np.int64, "b": np.int64, "f": np.float32}
    return targets.astype(kinds.get(targets.dtype.kind, targets.dtype))


def convert_to_classes(labels: Labels) -> Labels:
    """Return the class of every image where `labels` are one-hot rows, a column, or whole floats; else `labels`."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and len(labels) and ((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all():
        classes: Labels = labels.argmax(axis=1).astype(np.int64)
        return classes
    if labels.ndim == 1 and labels.dtype.kind == "f" and (labels == np.round(labels)).all():
        return labels.astype(np.int64)
    return labels


def _move_channels_last(pixels: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Arrange uint8 pixels as (N, height, width, channels): a colour axis has 1, 3 or 4 entries, first or last."""
    if pixels.ndim == 3:
        return pixels[..., None]
    if pixels.ndim == 4 and pixels.shape[3] in (1, 3, 4):
        return pixels
    if pixels.ndim == 4 and pixels.shape[1] in (1, 3, 4):
        return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
    raise DataError(
        f"the {name} images have shape {pixels.shape}: expected uint8 (images, height, width, channels) with 1, 3 or 4 "
        "channels, or channels second"
    )
