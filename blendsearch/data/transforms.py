"""Transforms of single images by name: presets of torchvision.transforms.v2, or a user-defined function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from blendsearch.data.datasets import DataSpec, RawData
from blendsearch.data.sampling import (
    Batch,
    SampledSplit,
    get_source,
    has_training_transforms,
    load_batch,
    reads_on_demand,
)
from blendsearch.data.split import FolderSplit, Indices, Split, resolve_view
from blendsearch.errors import ConfigError, DataError, format_error
from blendsearch.user_code import import_user_module

TRANSFORMS = "transforms"
"""Name, beside the augmentations of `Splits.augment`, of the training transforms that a split has itself."""

PRESETS = ("none", "cifar", "imagenet")
CIFAR_AUGMENTATIONS = ("flip", "crop")
IMAGENET_SIZE = 224

Transform = Callable[[Any], Any]
"""Maps a PIL image (or a float tensor of a user-defined Dataset) to a PIL image, uint8 pixels or a float tensor."""


@dataclass(frozen=True)
class Transforms:
    """Transforms for training and evaluation; None for the image as the data set gives it."""

    training: Transform
    evaluation: Transform | None


class TransformedSplit(SampledSplit):
    """Images of `source` through transforms: random ones in training, fixed ones in evaluation."""

    def __init__(self, source: Split, transforms: Transforms, name: str) -> None:
        self.source = source
        self.transforms = transforms
        self.labels = source.labels
        self.name = name
        self.workers = getattr(get_source(source), "workers", None)
        self.reads_on_demand = transforms.evaluation is not None or reads_on_demand(source)
        if transforms.evaluation is None:
            self._shape, self._dtype = source.shape, source.load_images(_NO_INDICES).dtype
        else:
            first = self.read_first()
            self._shape, self._dtype = first.shape, first.dtype
        trained = self.read_first(training=True)
        if (trained.shape, trained.dtype) != (self._shape, self._dtype):
            raise DataError(
                f"the training transform gives images of shape {trained.shape} and {trained.dtype}, evaluation "
                f"{self._shape} and {self._dtype}: expected the same; return both transforms as a pair, or set "
                "data.image_size"
            )

    def load_batch(self, indices: Indices, seeds: Indices | None) -> Batch:
        if seeds is None and self.transforms.evaluation is None:
            return load_batch(self.source, indices, None)
        return super().load_batch(indices, seeds)

    def open_sample(self, index: int, training: bool) -> tuple[Any, Any]:
        image, target = _open_image(self.source, index, training)
        transform = self.transforms.training if training else self.transforms.evaluation
        return image if transform is None else transform(image), target

    def describe_sample(self, index: int) -> str:
        source, rows = resolve_view(self.source, np.array([index]))
        if isinstance(source, FolderSplit):
            return str(source.files[rows[0]])
        if isinstance(source, SampledSplit):
            return source.describe_sample(int(rows[0]))
        return super().describe_sample(index)


_NO_INDICES: Indices = np.zeros(0, dtype=np.int64)


def complete_spec(spec: DataSpec) -> DataSpec:
    """Set the image size that the transforms imply. Raises ConfigError for an unknown name."""
    if spec.transforms not in PRESETS and ":" not in spec.transforms:
        raise ConfigError(
            f"data.transforms {spec.transforms!r} is unknown; expected one of {', '.join(PRESETS)}, or module:function"
        )
    if spec.transforms == "imagenet" and spec.image_size is None:
        return replace(spec, image_size=IMAGENET_SIZE)
    return spec


def apply_transforms(raw: RawData, spec: DataSpec) -> RawData:
    """Return `raw` with the transforms that `spec` names. Raises DataError where they do not fit."""
    if spec.transforms != "none" and not raw.classes:
        raise DataError(
            "data.transforms changes images but not their targets: transform both in your own Dataset instead"
        )
    if spec.transforms in ("none", "cifar"):
        return raw
    if spec.transforms == "imagenet":
        transforms = _make_imagenet_transforms(spec.image_size or IMAGENET_SIZE)
    else:
        transforms = _call_function(spec.transforms, spec.image_size)

    def transform(split: Split, name: str) -> Split:
        # a folder decodes the evaluation crop of the preset itself
        decoded = spec.transforms == "imagenet" and isinstance(split, FolderSplit)
        chosen = replace(transforms, evaluation=None) if decoded else transforms
        return TransformedSplit(split, chosen, name) if len(split) else split

    val = None if raw.val is None else transform(raw.val, "val")
    return replace(raw, train=transform(raw.train, "train"), test=transform(raw.test, "test"), val=val)


def list_augmentations(train: Split, spec: DataSpec) -> tuple[str, ...]:
    """List what training applies: the split's own transforms, then those of the preset, then `spec.augment`."""
    own = (TRANSFORMS,) if has_training_transforms(train) else ()
    preset = CIFAR_AUGMENTATIONS if spec.transforms == "cifar" else ()
    return tuple(dict.fromkeys((*own, *preset, *spec.augment)))


def _make_imagenet_transforms(size: int) -> Transforms:
    from torchvision.transforms import v2

    return Transforms(
        v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()]),
        v2.Compose([v2.Resize(round(size * 256 / 224), antialias=True), v2.CenterCrop(size)]),
    )


def _call_function(name: str, image_size: int | None) -> Transforms:
    """Call the user-defined function `name`, with the image size if it has a parameter for it."""
    place, _, attribute = name.rpartition(":")
    try:
        function = getattr(import_user_module(place), attribute)
    except Exception as error:  # a user-defined module may raise anything
        raise ConfigError(f"data.transforms {name!r} could not be imported: {format_error(error)}") from error
    if not callable(function):
        raise ConfigError(f"data.transforms {name!r} is a {type(function).__name__}, expected a function")
    try:
        made = function(*_select_arguments(function, name, image_size))
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"data.transforms {name!r} failed: {format_error(error)}") from error
    training, evaluation = made if isinstance(made, tuple | list) and len(made) == 2 else (made, None)
    if not callable(training) or not (evaluation is None or callable(evaluation)):
        raise ConfigError(
            f"data.transforms {name!r} returned {type(made).__name__}, expected a transform, or a pair of them for "
            "training and evaluation"
        )
    return Transforms(training, evaluation)


def _select_arguments(function: Callable[..., Any], name: str, image_size: int | None) -> tuple[int, ...]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [item for item in inspect.signature(function).parameters.values() if item.kind in kinds]
    if not parameters or (image_size is None and parameters[0].default is not inspect.Parameter.empty):
        return ()
    if image_size is None:
        raise ConfigError(f"data.transforms {name!r} takes the image size: set data.image_size")
    return (image_size,)


def _open_image(split: Split, index: int, training: bool) -> tuple[Any, Any]:
    """Return the image that a transform receives, and the sample's target or None."""
    source, rows = resolve_view(split, np.array([index]))
    if isinstance(source, FolderSplit):
        return source.open_image(int(rows[0])), None
    if isinstance(source, SampledSplit):
        return source.open_sample(int(rows[0]), training)
    image = source.load_images(rows)[0]
    if image.dtype != np.uint8:
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), None
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image), None
