"""User-defined data from Python: a Dataset, a DataLoader, or a pair of arrays, read into memory once.

Transforms run with seeded random numbers, so a network receives the same images in every evaluation. The seeds make a
second reading, such as a resumed search needs, equal to the first. Training reads a Dataset with random transforms anew
in every epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
)

from blendsearch.data.array_pairs import check_targets, get_array_pair, zip_image_list
from blendsearch.data.conversion import (
    convert_image,
    convert_labels,
    convert_to_array,
    convert_to_classes,
    describe_type,
    make_memory_split,
    unpack_sample,
)
from blendsearch.data.datasets import RawData
from blendsearch.data.sources import UserData, select_items
from blendsearch.data.split import MAX_CLASS, Split, Subset
from blendsearch.data.splits import DataSpec, Splits, make_splits
from blendsearch.data.stratify import allocate_proportionally, split_stratified
from blendsearch.data.streaming import AugmentedSplit, StreamedSplit, changes_by_seed, get_declared_labels
from blendsearch.errors import DataError, format_error
from blendsearch.task import Task, seed_rngs

MAX_BYTES = 4 * 2**30
"""Largest size of one split in memory: 6,600 images of 3 x 224 x 224 as float32, 26,000 as uint8.

A larger Dataset is read on demand (`StreamedSplit`); other larger sources are refused.
"""

TRAINING_NAMES = ("train", "full")
"""Sources of training images: random transforms of their Dataset are applied anew in every epoch."""


def load_user_splits(data: UserData, task: Task, spec: DataSpec, seed: int) -> Splits:
    """Divide user-defined data into three disjoint splits.

    Missing test images are half of the validation images if there are any, else a `spec.val_size` share of all. Missing
    validation images are then taken from train or test, as `spec` says. If `task` has its own evaluation function, all
    images are training images. Raises DataError for data that do not fit.
    """
    return make_splits(lambda _: _load_raw(data, task, spec, seed), spec, seed)


def _load_raw(data: UserData, task: Task, spec: DataSpec, seed: int) -> RawData:
    sources = {
        name: select_items(value, replace(spec, image_size=None))
        for name, value in vars(data).items()
        if value is not None
    }
    if not sources.keys() & {"whole", "train"}:
        raise DataError("no training data: pass one data set to divide, or train=, val= and test=")
    if {"whole", "train"} <= sources.keys():
        raise DataError("both one data set and train= are set: pass only one of them")
    images_only = task.evaluate is not None
    split = {
        name: read_split(value, "full" if name == "whole" else name, seed, images_only=images_only)
        for name, value in sources.items()
    }
    if task.has_class_labels and task.loss is None and task.evaluate is None:
        for item in split.values():
            item.labels = convert_to_classes(item.labels)  # type: ignore[misc]
    train = split.get("train", split.get("whole"))
    assert train is not None
    if task.evaluate is not None:
        empty = Subset(train, np.zeros(0, dtype=np.int64))
        return RawData(train, empty, empty, _count_classes(split.values(), task), has_held_out=False)
    val, test = split.get("val"), split.get("test")
    classes = _count_classes(split.values(), task)
    note = ""
    if test is None:
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 3])))
        kind = "validation images" if val is not None else "images of the data set"
        total = len(train if val is None else val)
        if val is not None:
            test, val = _split_in_two(val, 0.5, classes, rng, "val")
        else:
            test, train = _split_in_two(train, spec.val_size, classes, rng, "full")
        note = f"Test images are {len(test):,} of the {total:,} {kind}."
    return RawData(train, test, val, classes, note=note)


def _count_classes(splits: Iterable[Split], task: Task) -> int:
    """Return the number of classes that the labels name; 0 if targets are not classes."""
    splits = list(splits)
    labels = [split.labels for split in splits]
    if not task.has_class_labels or any(item.ndim != 1 or item.dtype.kind != "i" for item in labels):
        if task.has_class_labels and task.evaluate is None and task.loss is None:
            described = next(item for item in labels if item.ndim != 1 or item.dtype.kind != "i")
            raise DataError(
                f"the targets are not classes (one integer per image) but {described.dtype} of shape "
                f"{described.shape[1:]}, and there is no loss for others: pass loss=, from outputs and targets to the "
                "mean loss of a batch, or evaluate="
            )
        return 0
    least = min((int(item.min(initial=0)) for item in labels), default=0)
    if least < 0:
        if task.loss is not None or task.evaluate is not None:
            return 0
        raise DataError(f"the targets hold {least}: expected classes numbered from 0; pass loss= for other targets")
    most = max((int(item.max(initial=-1)) for item in labels), default=-1)
    if most > MAX_CLASS:
        raise DataError(f"the targets hold {most}: expected classes numbered 0, 1, 2 and so on; renumber them")
    return most + 1


def _split_in_two(source: Split, size: float, classes: int, rng: np.random.Generator, name: str) -> tuple[Split, Split]:
    """Split off a share (`size` up to 1) or number of images; both parts contain every class if there are classes."""
    labels = source.labels if classes else np.zeros(len(source), dtype=np.int64)
    sizes = np.bincount(labels, minlength=classes or 1)
    counts = allocate_proportionally(sizes, round(size * len(labels)) if size <= 1 else int(size), spare=1)
    if counts is None:
        raise DataError(
            f"the {len(labels)} {name} images cannot be divided in two, {size:g} of them for testing, with every class "
            "in both: pass test="
        )
    taken, rest = split_stratified(labels, counts, rng)
    return Subset(source, taken), Subset(source, rest)


def read_split(source: Any, name: str, seed: int, *, images_only: bool = False) -> Split:
    """Read one split from a Dataset, a DataLoader, or a pair of arrays or tensors.

    With `images_only`, targets that are missing or cannot be stacked into an array are accepted. Raises DataError.
    """
    if isinstance(source, TensorDataset) and len(source.tensors) == 2:
        source = source.tensors
    source = zip_image_list(source)
    pair = get_array_pair(source)
    if pair is not None:
        try:
            images = convert_to_array(pair[0])
        except ValueError as error:
            raise DataError(f"the {name} images cannot be used ({error}): expected an array of numbers") from error
        try:
            return make_memory_split(images, convert_to_array(pair[1]), name)
        except ValueError as error:
            raise DataError(
                f"the {name} targets are text or objects: expected an integer per image, 0 for the first class; number "
                "them (numpy.unique(..., return_inverse=True)[1])"
            ) from error
    if not images_only:
        check_targets(source, name)
    dataset, workers = _find_map_style_dataset(source), _get_workers(source)
    if dataset is not None and len(dataset) and (labels := get_declared_labels(dataset)) is not None:
        with seed_rngs(seed):
            size = convert_image(_read_item(dataset, 0, name)[0], name).nbytes * len(dataset)
        if size > MAX_BYTES:
            return StreamedSplit(dataset, labels, name, workers)
    collector = _SampleCollector(name, images_only, can_stream=dataset is not None)
    with seed_rngs(seed):
        for images, targets in _iter_batches(source, name):
            collector.add(images, targets)
    if collector.is_streaming:
        return StreamedSplit(dataset, convert_labels(collector.stack_targets()), name, workers)
    split = collector.make_split()
    if dataset is not None and name in TRAINING_NAMES and changes_by_seed(dataset, name):
        return AugmentedSplit(dataset, split, name, workers)
    return split


def _find_map_style_dataset(source: Any) -> Any | None:
    """Return the Dataset behind `source` if its items can be read again by index, as `source` yields them."""
    if not isinstance(source, DataLoader):
        return source if isinstance(source, Dataset) and hasattr(source, "__len__") else None
    if source.batch_size is None or source.collate_fn is not default_collate:
        return None
    if isinstance(source.sampler, SequentialSampler | RandomSampler):
        return source.dataset
    if isinstance(source.sampler, SubsetRandomSampler):
        return torch.utils.data.Subset(source.dataset, sorted(int(index) for index in source.sampler.indices))
    return None


def _get_workers(source: Any) -> int | None:
    return source.num_workers if isinstance(source, DataLoader) else None


def _iter_batches(source: Any, name: str) -> Iterator[tuple[Any, Any]]:
    """Iterate over pairs of stacked or listed images and targets."""
    if isinstance(source, DataLoader):
        try:
            for batch in _disable_shuffling(source):
                yield unpack_sample(batch, name)
        except DataError:
            raise
        except Exception as error:  # a user-defined data set may raise anything
            for index in range(len(_find_map_style_dataset(source) or ())):
                _read_item(source.dataset, index, name)  # names the item that cannot be read
            last = next(filter(None, reversed(str(error).splitlines())), type(error).__name__)
            raise DataError(
                f"the {name} data cannot be read ({last}); correct them, or the code that reads them"
            ) from (error)
        return
    is_iterable = hasattr(source, "__getitem__") or isinstance(source, Iterable)
    if not is_iterable or isinstance(source, Mapping | str):
        raise DataError(
            f"the {name} data are {describe_type(source)}: expected a Dataset, a DataLoader, or a pair (images, "
            "targets) of arrays or tensors"
        )
    if hasattr(source, "__len__") and hasattr(source, "__getitem__"):
        samples: Iterable[tuple[Any, Any]] = (_read_item(source, index, name) for index in range(len(source)))
    else:
        samples = _iter_items(source, name)
    for image, target in samples:
        yield [image], [target]


def _iter_items(source: Iterable[Any], name: str) -> Iterator[tuple[Any, Any]]:
    items, index = iter(source), 0
    while True:
        try:
            sample = next(items)
        except StopIteration:
            return
        except Exception as error:  # a user-defined data set may raise anything
            raise _describe_unreadable_item(index, name, error) from error
        yield _convert_item(sample, index, name)
        index += 1


def _read_item(dataset: Any, index: int, name: str) -> tuple[Any, Any]:
    """Return the image and the target of an item. Raises DataError with the index of an item that cannot be read."""
    try:
        sample = dataset[index]
    except Exception as error:  # a user-defined data set may raise anything
        raise _describe_unreadable_item(index, name, error) from error
    return _convert_item(sample, index, name)


def _describe_unreadable_item(index: int, name: str, error: BaseException) -> DataError:
    return DataError(
        f"item {index} of the {name} data cannot be read ({format_error(error)}); correct it, or the code that reads it"
    )


def _convert_item(sample: Any, index: int, name: str) -> tuple[Any, Any]:
    """Return the image as an array, and the target. Raises DataError with the index of an item that is none."""
    try:
        image, target = unpack_sample(sample, name)
        try:
            converted = convert_to_array(image)
        except (TypeError, ValueError) as error:
            if isinstance(image, Image.Image | Tensor):
                raise DataError(f"its image cannot be used: {error}") from error
            raise DataError(
                f"its image is {describe_type(image)}: expected a PIL image, or an array or tensor of numbers"
            ) from error
        if converted.ndim < 2:
            raise DataError(f"its image has shape {converted.shape}: expected (channels, height, width)")
        if converted.dtype.kind == "f" and not np.isfinite(converted).all():
            raise DataError("its image holds NaN or infinity: fix the transform that makes it")
    except DataError as error:
        raise DataError(f"item {index} of the {name} data: {error}") from error
    return converted, np.asarray(target) if isinstance(target, Image.Image) else target


def _disable_shuffling(loader: DataLoader[Any]) -> Iterable[Any]:
    """Return the loader's batches in a fixed order, where its sampler allows it: a second reading must be equal."""
    sampler = loader.sampler
    plain = isinstance(sampler, SequentialSampler | RandomSampler)
    if loader.batch_size is None or not (plain or hasattr(sampler, "indices")):
        return loader
    order = range(len(loader.dataset)) if plain else sorted(getattr(sampler, "indices"))  # type: ignore[arg-type]  # noqa: B009
    return DataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        sampler=list(order),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
    )


class _SampleCollector:
    """Collects images and targets up to `MAX_BYTES`."""

    def __init__(self, name: str, images_only: bool, can_stream: bool) -> None:
        self.name, self.images_only, self.can_stream = name, images_only, can_stream
        self.is_streaming = False
        self.images: list[NDArray[Any]] = []
        self.targets: list[Any] = []
        self.nbytes, self.count = 0, 0

    def add(self, images: Any, targets: Any) -> None:
        stacked = convert_to_array(images) if isinstance(images, Tensor | np.ndarray) else self._stack_images(images)
        if self.images and stacked.shape[1:] != self.images[0].shape[1:]:
            raise DataError(
                f"the {self.name} images have shapes {self.images[0].shape[1:]} and, from item {self.count}, "
                f"{stacked.shape[1:]}: expected the same of all; convert them to one mode, and resize and crop them, "
                "in the transform"
            )
        if self.images and stacked.dtype != self.images[0].dtype:
            raise DataError(
                f"the {self.name} images are {self.images[0].dtype} and, from item {self.count}, {stacked.dtype}: "
                "expected the same of all; give all of them the same transform"
            )
        if not self.is_streaming:
            self.images.append(stacked)
        self.nbytes, self.count = self.nbytes + stacked.nbytes, self.count + len(stacked)
        if self.nbytes > MAX_BYTES and self.can_stream:
            self.is_streaming = True  # from here on, only the targets are kept
            del self.images[1:]
        elif self.nbytes > MAX_BYTES:
            raise DataError(
                f"the {self.name} data exceed {MAX_BYTES / 2**30:g} GiB after {self.count:,} images: pass fewer "
                "(torch.utils.data.Subset), uint8 instead of float32, or files by name (data={'dataset': "
                "'image-folder', 'root': ...}), which are decoded when needed"
            )
        if (targets is None or (isinstance(targets, list) and targets[0] is None)) and not self.images_only:
            raise DataError(
                f"the {self.name} data yield images without targets, from item {self.count - len(stacked)}: expected "
                "(image, target)"
            )
        if targets is None or not self.images_only:
            self.targets.append([0] * len(stacked) if targets is None else self._convert_targets(targets, len(stacked)))
        else:
            try:
                convert_to_array(targets)
            except (TypeError, ValueError, DataError):
                targets = [0] * len(stacked)
            self.targets.append(targets)

    def _convert_targets(self, targets: Any, images: int) -> NDArray[Any]:
        """Return the targets of the last `images` as an array. Raises DataError with the index of the first."""
        try:
            found = convert_to_array(targets)
        except (TypeError, ValueError) as error:
            target = targets[0] if isinstance(targets, list) else targets
            raise DataError(
                f"the {self.name} targets cannot be stacked (item {self.count - images}: {describe_type(target)}): "
                "expected an integer or an array of one shape per image; for others pass evaluate="
            ) from error
        if self.targets and found.shape[1:] != self.targets[0].shape[1:]:
            raise DataError(
                f"the {self.name} targets cannot be stacked (item {self.count - images} has shape {found.shape[1:]}, "
                f"the first one {self.targets[0].shape[1:]}): expected an integer or an array of one shape per image; "
                "for others pass evaluate="
            )
        return found

    def make_split(self) -> Split:
        if not self.images:
            raise DataError(f"the {self.name} data hold no image; expected at least one; check where they come from")
        return make_memory_split(np.concatenate(self.images), self.stack_targets(), self.name)

    def stack_targets(self) -> NDArray[Any]:
        try:
            return np.concatenate([convert_to_array(part) for part in self.targets])
        except (TypeError, ValueError) as error:
            if not self.images_only:
                raise DataError(
                    f"the {self.name} targets cannot be stacked ({error}): expected an integer or an array of one "
                    "shape per image; for others pass evaluate="
                ) from error
            return np.zeros(self.count, dtype=np.int64)

    def _stack_images(self, images: Sequence[Any]) -> NDArray[Any]:
        return np.stack([convert_to_array(image) for image in images])
