"""Disjoint training, validation and test images, and normalised batches of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blendsearch.data.augment import resolve_augmentations
from blendsearch.data.batches import BatchSize, draw_pass, iter_pass
from blendsearch.data.datasets import DataSpec, RawData, load_raw
from blendsearch.data.input_description import InputDescription
from blendsearch.data.share import SINGLE_PROCESS, Share
from blendsearch.data.split import ArraySplit, FolderSplit, Indices, Labels, Split, Subset, is_preprocessed
from blendsearch.data.stratify import allocate_proportionally, split_stratified
from blendsearch.data.transforms import TRANSFORMS, apply_transforms, complete_spec, list_augmentations
from blendsearch.data.worker_processes import Workers
from blendsearch.errors import ConfigError, DataError
from blendsearch.transfer import send

__all__ = [
    "ArraySplit",
    "DataSpec",
    "FolderSplit",
    "Split",
    "Splits",
    "Subset",
    "check_labels",
    "load_splits",
    "make_splits",
]

NORMALIZATION_IMAGES = 4096
"""Images on which mean and std are measured; their standard error is then below 0.3 % of the range."""

DIGEST_BYTES = 256 * 2**20
"""Largest split of which a digest reads every pixel (about 0.2 s)."""

DIGEST_IMAGES = 64
"""Images of a larger split that a digest reads."""


@dataclass(frozen=True)
class Splits:
    """Three disjoint splits, their classes, and the normalisation of inputs.

    Each split is in a random but fixed order, so any prefix is a fair sample.

    Attributes
    ----------
    classes: number of classes; 0 if targets are not classes.
    mean, std: float32 (channels,), of inputs scaled to [0, 1]; 0 and 1 if inputs are preprocessed.
    augment: names of the augmentations for training; ``transforms`` for those that the training split has itself.
    note: one sentence on the origin of validation and test images.
    unused: validation images that `val_limit` leaves out, so no network was chosen by them; None if there are none.
    workers: number of processes that read images which are not in memory.
    warnings: what the user should know about the data.
    """

    train: Split
    val: Split
    test: Split
    classes: int
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    augment: tuple[str, ...]
    note: str
    unused: Split | None = None
    workers: Workers = "auto"
    warnings: tuple[str, ...] = ()

    def compute_digest(self) -> str:
        """Return the SHA-256 (hex) of labels, pixels, their order and the normalisation.

        Only 64 evenly spaced images of a split above 256 MiB are read; changes in the others are not detected.
        """
        hashed = hashlib.sha256()
        for name, split in self._list_splits():
            size = len(split) * int(np.prod(split.shape)) * (4 if is_preprocessed(split) else 1)
            hashed.update(f"{name} {len(split)} {split.shape} {self.classes};".encode())
            hashed.update(_to_little_endian(split.labels).tobytes())
            count = len(split) if size <= DIGEST_BYTES else min(DIGEST_IMAGES, len(split))
            chosen = np.linspace(0, len(split) - 1, count).round().astype(np.int64)
            for chunk in np.array_split(chosen, max(1, count // 512)):
                if len(chunk):
                    hashed.update(np.ascontiguousarray(split.load_images(chunk)).data)
        hashed.update(self.mean.astype("<f4").tobytes() + self.std.astype("<f4").tobytes())
        return hashed.hexdigest()

    def describe_input(self) -> InputDescription:
        """Describe the network's input: `shape` of an image, `mean` and `std` of pixels `scaled_to` [0, 1].

        The last three are None if inputs are preprocessed.
        """
        height, width, channels = self.train.shape
        shape = [channels, height, width]
        if is_preprocessed(self.train):
            return {"shape": shape, "mean": None, "std": None, "scaled_to": None}
        return {"shape": shape, "mean": self.mean.tolist(), "std": self.std.tolist(), "scaled_to": [0, 1]}

    def iter_batches(
        self,
        split: Split,
        *,
        batch_size: int,
        device: torch.device,
        rng: np.random.Generator | None = None,
        augment: Sequence[str] = (),
        limit: int | None = None,
        drop_last: bool = False,
        share: Share = SINGLE_PROCESS,
        skip: int = 0,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over normalised batches of `split` on `device`.

        A batch is x, float32 (n, channels, height, width), and y, int64 (n,) or other targets (n, ...). Without `rng`
        the images come in order and unchanged. With it they are shuffled and augmented, and the same generator state
        gives the same batches, however many processes read them. All random numbers are drawn by this call, none by the
        iteration. `limit` takes the first images of the order, and only this process's `share` of every batch is read.
        `skip` leaves out the first batches: the others are those of a whole pass. Raises ValueError for `augment`
        without `rng`, and for sizes below 1.

        `augment` names batched augmentations. ``transforms`` among them stands for the transforms that the split has
        itself; without it, training images are read as in evaluation.
        """
        if rng is None and augment:
            raise ValueError("augmentation needs a generator: pass rng, or leave out augment")
        if batch_size < 1 or (limit is not None and limit < 1):
            raise ValueError(f"batch_size and limit are at least 1, not {batch_size} and {limit}")
        if skip < 0:
            raise ValueError(f"skip is at least 0, not {skip}")
        changes = resolve_augmentations([name for name in augment if name != TRANSFORMS])
        size = BatchSize(batch_size, limit, drop_last, share)
        drawn = draw_pass(split, rng, size, with_transforms=TRANSFORMS in augment)
        batches = iter_pass(split, drawn, changes, device, self.workers, skip)
        return ((self.normalize(x), y) for x, y in batches)

    def normalize(self, x: Tensor) -> Tensor:
        """Return uint8 pixels (n, channels, height, width) as network inputs; float inputs are returned unchanged."""
        if x.is_floating_point():
            return x
        # (pixel / 255 - mean) / std as one multiplication and one addition
        scale = send(torch.from_numpy(1 / (255 * self.std.astype(np.float64))).float(), x.device)[:, None, None]
        offset = send(torch.from_numpy(-self.mean.astype(np.float64) / self.std).float(), x.device)[:, None, None]
        return x.float().mul_(scale).add_(offset)

    def _list_splits(self) -> tuple[tuple[str, Split], ...]:
        named = (("train", self.train), ("val", self.val), ("test", self.test))
        return named if self.unused is None else (*named, ("unused", self.unused))


def load_splits(spec: DataSpec, seed: int) -> Splits:
    """Load the data set and divide it: the same spec and seed give the same images in the same order.

    Each split has its own random stream, so a limit on one split does not change another. Raises ConfigError for
    unknown names and DataError for data that do not fit.
    """
    return make_splits(load_raw, spec, seed)


def make_splits(load: Callable[[DataSpec], RawData], spec: DataSpec, seed: int) -> Splits:
    """Divide the data that `load` returns for `spec`, as `load_splits` does."""
    resolve_augmentations(spec.augment)
    if spec.val_from not in ("train", "test"):
        raise ConfigError(f"data.val_from is {spec.val_from!r}; expected 'train' or 'test'; choose one")
    limits = {"train": spec.train_limit, "val": spec.val_limit, "test": spec.test_limit}
    for name, limit in limits.items():
        if limit is not None and limit < 1:
            raise DataError(f"data.{name}_limit is {limit}; expected at least 1 image; leave it out for all images")
    spec = complete_spec(spec)
    raw = apply_transforms(load(spec), spec)
    _check_raw(raw, spec)
    streams = [np.random.Generator(np.random.PCG64(child)) for child in np.random.SeedSequence(seed).spawn(4)]
    parts = {"train": raw.train, "test": raw.test}
    if raw.val is not None:
        parts["val"] = raw.val
    else:
        source = parts[spec.val_from]
        taken, rest = _split_validation(source.labels, spec, raw.classes, streams[0])
        parts |= {"val": Subset(source, taken), spec.val_from: Subset(source, rest)}
    halves = {
        name: _limit_split(parts[name], limit, raw.classes, stream)
        for (name, limit), stream in zip(limits.items(), streams[1:], strict=True)
    }
    limited, unused = {name: taken for name, (taken, _) in halves.items()}, halves["val"][1]
    mean, std = _compute_normalization(limited["train"], spec)
    note = _describe_splits(spec, raw, parts, limited)
    return Splits(
        **limited,
        classes=raw.classes,
        mean=mean,
        std=std,
        augment=list_augmentations(limited["train"], spec),
        note=note,
        unused=unused if len(unused) else None,
        workers=spec.workers,
        warnings=raw.warnings,
    )


def check_labels(splits: Splits, outputs: int) -> None:
    """Raise DataError if a label has no corresponding output of the network."""
    for name, split in splits._list_splits():
        _check_range(
            name, split.labels, outputs, "the network's outputs", "use a model with more outputs or other data"
        )


def _to_little_endian(labels: Labels) -> Labels:
    """Return labels in a byte order that is the same on every machine."""
    return labels.astype("<i8") if labels.dtype.kind in "iu" else labels.astype(labels.dtype.newbyteorder("<"))


def _check_raw(raw: RawData, spec: DataSpec) -> None:
    held_out = {"test": raw.test} | ({"val": raw.val} if raw.val is not None else {})
    if spec.augment and not raw.classes:
        raise DataError("data.augment moves images but not their targets: augment in your own data instead")
    for name, split in {"train": raw.train, **held_out}.items():
        if len(split) == 0 and (name == "train" or raw.has_held_out):
            raise DataError(f"the {name} data hold no image; expected at least one; check where they come from")
        if raw.classes:
            _check_range(
                name, split.labels, raw.classes, "the training classes", "drop such images or add the class to train"
            )
        if is_preprocessed(split) != is_preprocessed(raw.train):
            raise DataError(
                f"the {name} images are {'float32' if is_preprocessed(split) else 'uint8'} but the training "
                "images are not;"
                " expected the same of all; give them the same transform"
            )
        if split.shape != raw.train.shape:
            raise DataError(
                f"the {name} images have shape {split.shape} but the training images {raw.train.shape}; expected the"
                " same (height, width, channels); resize one of them"
            )


def _check_range(name: str, labels: Labels, classes: int, limit_name: str, hint: str) -> None:
    outside = (labels < 0) | (labels >= classes)
    if outside.any():
        raise DataError(
            f"the {name} data have label {labels[np.argmax(outside)]} ({int(outside.sum())} images outside); expected"
            f" 0..{classes - 1}, {limit_name}; {hint}"
        )


def _split_validation(
    labels: Labels, spec: DataSpec, classes: int, rng: np.random.Generator
) -> tuple[Indices, Indices]:
    """Return positions for validation and the remaining ones; both contain every class of the source."""
    found, size, source = len(labels), spec.val_size, spec.val_from
    if not classes:  # nothing to stratify by
        labels, classes = np.zeros(found, dtype=np.int64), 1
    if not 0 < size < float("inf") or (size > 1 and size != int(size)):
        raise DataError(f"data.val_size is {size}; expected a fraction in (0, 1) or a whole number of images above 1")
    wanted = round(size * found) if size <= 1 else int(size)
    sizes = np.bincount(labels, minlength=classes)
    present = int((sizes > 0).sum())
    counts = allocate_proportionally(sizes, wanted, spare=1)
    if counts is not None:
        return split_stratified(labels, counts, rng)
    if not 0 < wanted < found:
        emptied = "val" if wanted < 1 else source
        raise DataError(
            f"data.val_size {size:g} takes {wanted} of the {found} {source} images and leaves {emptied} empty; choose"
            f" {present} to {found - present} images"
        )
    if (sizes == 1).any():
        raise DataError(
            f"class {int(np.argmax(sizes == 1))} has a single {source} image, which val and {source} cannot both have;"
            " expected at least 2 per class; add images, drop the class, or set data.val"
        )
    raise DataError(
        f"data.val_size {size:g} takes {wanted} of the {found} {source} images and leaves"
        f" {'val' if wanted < present else source} without some of the {present} classes; choose"
        f" {present} to {found - present} images"
    )


def _limit_split(split: Split, limit: int | None, classes: int, rng: np.random.Generator) -> tuple[Split, Split]:
    """Return at most `limit` images of a split, stratified by class, and the images that are left out."""
    labels = split.labels if classes else np.zeros(len(split), dtype=np.int64)
    sizes = np.bincount(labels, minlength=classes or 1)
    counts = allocate_proportionally(sizes, len(split) if limit is None else min(limit, len(split)), spare=0)
    assert counts is not None  # spare is 0, so any number up to all can be allocated
    taken, rest = split_stratified(labels, counts, rng)
    return Subset(split, taken), Subset(split, rest)


def _compute_normalization(train: Split, spec: DataSpec) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    channels = train.shape[2]
    configured = {"mean": spec.mean, "std": spec.std}
    if is_preprocessed(train):
        if spec.mean is not None or spec.std is not None:
            raise DataError(
                "data.mean and data.std are for uint8 images, but these are float32, which reach the network unchanged;"
                " leave them out"
            )
        return np.zeros(channels, dtype=np.float32), np.ones(channels, dtype=np.float32)
    for name, values in configured.items():
        if values is None:
            continue
        if len(values) != channels:
            raise DataError(
                f"data.{name} has {len(values)} values but images have {channels} channels; expected one per channel"
            )
        if not np.isfinite(values).all() or (name == "std" and min(values) <= 0):
            wanted = "above 0" if name == "std" else "finite"
            raise DataError(
                f"data.{name} is {tuple(values)}; expected values {wanted}, of inputs in [0, 1]; leave it out"
            )
    if spec.mean is None or spec.std is None:
        # in chunks, so that large images of a folder are never in memory together; integer sums are exact
        seen, total, squares = 0, np.zeros(channels), np.zeros(channels)
        for chunk in np.array_split(
            np.arange(min(len(train), NORMALIZATION_IMAGES)), max(1, NORMALIZATION_IMAGES // 64)
        ):
            if len(chunk):
                pixels = train.load_images(chunk).reshape(-1, channels).astype(np.int64)
                seen += len(pixels)
                total += pixels.sum(axis=0)
                squares += (pixels**2).sum(axis=0)
        mean = total / seen / 255
        # a constant channel has no spread to divide by; one grey level replaces it
        std = np.maximum(np.sqrt(np.maximum(squares / seen / 255**2 - mean**2, 0)), 1 / 255)
    return (
        np.asarray(mean if spec.mean is None else spec.mean, dtype=np.float32),
        np.asarray(std if spec.std is None else spec.std, dtype=np.float32),
    )


def _describe_splits(spec: DataSpec, raw: RawData, parts: dict[str, Split], limited: dict[str, Split]) -> str:
    def format_limit(name: str) -> str:
        return f" (of which {len(limited[name]):,} are used)" if len(limited[name]) < len(parts[name]) else ""

    whole = {"train": raw.train, "test": raw.test}
    if not raw.has_held_out:
        count = f"{len(parts['train']):,} images{format_limit('train')}"
        return f"{spec.dataset}: networks are evaluated elsewhere, training is {count}."
    if raw.val is not None:
        val = f"its own {len(parts['val']):,} images"
    else:
        val = f"{len(parts['val']):,} of the {len(whole[spec.val_from]):,} {spec.val_from} images"
    rest = {
        name: f"the other {len(parts[name]):,}"
        if raw.val is None and spec.val_from == name
        else f"all {len(parts[name]):,} {name} images"
        for name in ("train", "test")
    }
    return (
        f"{spec.dataset}: validation is {val}{format_limit('val')}, test is "
        f"{rest['test']}{format_limit('test')}, training is"
        f" {rest['train']}{format_limit('train')}.{raw.note and ' ' + raw.note}"
    )


def list_gaps(splits: Splits, *, has_validation: bool) -> list[str]:
    """List, in words, classes without an image in training or validation, and a validation split of a single image.

    Without `has_validation`, a user-defined ``evaluate=`` replaces the validation images.
    """
    gaps = []
    if has_validation and len(splits.val) == 1:
        gaps.append("validation has a single image, so that accuracies are 0 % or 100 %: raise data.val_size")
    named = {"training": splits.train} | ({"validation": splits.val} if has_validation else {})
    for name, split in named.items() if splits.classes else ():
        present = np.isin(np.arange(splits.classes), split.labels)
        if not present.all():
            missing = np.flatnonzero(~present)
            listed = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
            gaps.append(f"{name} has no image of {len(missing)} of {splits.classes} classes ({listed})")
    return gaps
