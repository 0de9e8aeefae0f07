"""Registry of data sets: their names in the config, and the source of their images and labels.

A data set is a decorated function from a `DataSpec` to `RawData`. It guarantees that labels belong to their images.
Splitting, limits and normalisation are done in `data.splits`.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blendsearch.data.npz import load_npz
from blendsearch.data.paths import PathList
from blendsearch.data.split import ArraySplit, FolderSplit, Split
from blendsearch.data.stratify import allocate_proportionally, split_stratified
from blendsearch.data.worker_processes import Workers
from blendsearch.errors import ConfigError, DataError, format_reason

DEFAULT_ROOT = "~/.cache/blendsearch"
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"}
)


@dataclass(frozen=True)
class DataSpec:
    """Images to use, and their roles.

    - `root`: folder of an image-folder or torchvision set; npz paths are relative to it.
    - `train`, `test`, `val`: npz files, or sub-folders of an image-folder (default `train`, and `test` or else `val`).
      With `val`, no validation images are taken from the other two, and `val_from` and `val_size` are ignored.
    - `val_from`: `train` or `test`, the split that validation images are taken from. Use `test` for weights that were
      trained on all training images.
    - `val_size`: a fraction of those images up to 1, a number of images above 1; stratified by class.
    - `train_limit`, `val_limit`, `test_limit`: largest number of images of the split, stratified by class.
    - `image_size`: side in pixels to which images of an image-folder are resized and cropped.
    - `mean`, `std`: per channel, of inputs scaled to [0, 1]; measured on training images by default.
    - `augment`: names from `blendsearch.data.augment`.
    - `transforms`: a preset of `blendsearch.data.transforms`, or ``module:function`` of user-defined code.
    - `workers`: processes that read images which are not in memory; 0 for none.
    - `name`: of a data set of Hugging Face; `arguments`: of its loader, of a torchvision class, or of a user-defined
      function; `keys`: of image and target in items that are dictionaries.
    - `download`: True if a torchvision set that is not in `root` may be downloaded.
    """

    dataset: str
    root: str | None = None
    train: str | None = None
    test: str | None = None
    val: str | None = None
    val_from: str = "train"
    val_size: float = 0.1
    val_limit: int | None = None
    train_limit: int | None = None
    test_limit: int | None = None
    image_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    augment: tuple[str, ...] = ()
    download: bool = False
    transforms: str = "none"
    workers: Workers = "auto"
    name: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    keys: tuple[str, ...] | None = None


@dataclass(frozen=True)
class RawData:
    """A data set before splitting.

    Attributes
    ----------
    val: validation images, if the data set has its own.
    classes: number of classes; labels are in 0..classes-1. 0 if targets are not classes.
    has_held_out: False if a user-defined function evaluates networks on its own images. Validation and test may then be
        empty.
    note: a sentence on the origin of the splits, or empty.
    warnings: what the user should know about these data, such as files that were not read.
    """

    train: Split
    test: Split
    val: Split | None
    classes: int
    has_held_out: bool = True
    note: str = ""
    warnings: tuple[str, ...] = ()


DatasetFunction = Callable[[DataSpec], RawData]

DATASETS: dict[str, DatasetFunction] = {}


def register_dataset(name: str) -> Callable[[DatasetFunction], DatasetFunction]:
    """Register a data set under the name that `DataSpec.dataset` asks for."""

    def register(function: DatasetFunction) -> DatasetFunction:
        DATASETS[name] = function
        return function

    return register


def load_raw(spec: DataSpec) -> RawData:
    """Load the data set that `spec` names. Raises ConfigError for an unknown name, DataError for unsuitable data."""
    if spec.dataset not in DATASETS:
        close = difflib.get_close_matches(spec.dataset, DATASETS, n=1)
        raise ConfigError(
            f"data.dataset {spec.dataset!r} is unknown; expected one of {', '.join(sorted(DATASETS))}, huggingface, "
            "torchvision:NAME or module:function" + (f"; did you mean {close[0]!r}?" if close else "")
        )
    return DATASETS[spec.dataset](spec)


@register_dataset("digits")
def load_sklearn_digits(spec: DataSpec) -> RawData:
    """1,797 grey 8x8 digits of scikit-learn; half train, half test, the same halves in every run."""
    table = _read_digits()
    images = np.round(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)[..., None]
    labels = table[:, -1].astype(np.int64)
    counts = allocate_proportionally(np.bincount(labels), len(labels) // 2, spare=1)
    assert counts is not None  # each digit has about 180 images
    train, test = split_stratified(labels, counts, np.random.Generator(np.random.PCG64(0)))
    return RawData(
        ArraySplit(images[train], labels[train]), ArraySplit(images[test], labels[test]), val=None, classes=10
    )


@register_dataset("clutter")
def load_clutter(spec: DataSpec) -> RawData:
    """11,000 colour 16x16 images of digits among fragments of others; see `data.clutter`."""
    from blendsearch.data.clutter import make_splits

    table = _read_digits()
    splits = make_splits(table[:, :-1].reshape(-1, 8, 8) / 16, table[:, -1].astype(np.int64))
    return RawData(splits["train"], splits["test"], splits["val"], classes=10)


def _read_digits() -> NDArray[np.float64]:
    """Read the pixels (0 to 16) and the label of every digit, (1797, 65), without the slow import of scikit-learn."""
    path = _find_digits()
    if path is not None:
        return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits

    found = load_digits()
    return np.column_stack([found.data, found.target])


def _find_digits() -> Path | None:
    """Find the file of the digits in scikit-learn's package; None in a version that keeps it elsewhere."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).with_name("datasets") / "data" / "digits.csv.gz"
    return path if path.is_file() else None


@register_dataset("cifar10")
def load_cifar10(spec: DataSpec) -> RawData:
    """60,000 colour 32x32 images of 10 classes (Krizhevsky 2009)."""
    return _load_torchvision("CIFAR10", spec, classes=10)


@register_dataset("cifar100")
def load_cifar100(spec: DataSpec) -> RawData:
    """60,000 colour 32x32 images of 100 classes (Krizhevsky 2009)."""
    return _load_torchvision("CIFAR100", spec, classes=100)


@register_dataset("fashion-mnist")
def load_fashion_mnist(spec: DataSpec) -> RawData:
    """70,000 grey 28x28 images of 10 kinds of clothing (Xiao et al. 2017)."""
    return _load_torchvision("FashionMNIST", spec, classes=10)


def _load_torchvision(name: str, spec: DataSpec, classes: int) -> RawData:
    from torchvision import datasets as torchvision_datasets

    root = Path(spec.root or DEFAULT_ROOT).expanduser()

    def load(train: bool) -> Split:
        # torchvision compares CIFAR's files with known checksums before it unpickles them
        try:
            found = getattr(torchvision_datasets, name)(str(root), train=train, download=spec.download)
        except (RuntimeError, OSError, ValueError) as error:
            reason = format_reason(error)
            hint = (
                "the download failed; copy the files there by hand, or use an npz file"
                if spec.download
                else "set data.root to the folder that holds it, or data.download to true"
            )
            raise DataError(f"{spec.dataset} was looked for in {root}: {reason}; {hint}") from error
        images = np.ascontiguousarray(np.asarray(found.data, dtype=np.uint8))
        return ArraySplit(images if images.ndim == 4 else images[..., None], np.asarray(found.targets, dtype=np.int64))

    return RawData(load(train=True), load(train=False), val=None, classes=classes)


@register_dataset("image-folder")
def load_image_folder(spec: DataSpec) -> RawData:
    """Files ROOT/train/CLASS/**/*.jpg (or png, ...) and ROOT/test/CLASS/**/*.jpg; classes are numbered by name."""
    if spec.root is None:
        raise ConfigError("data.root is not set; dataset 'image-folder' expects the folder that holds train and test")
    if spec.image_size is not None and spec.image_size < 1:
        raise DataError(f"data.image_size is {spec.image_size}, expected at least 1 pixel; leave it out to keep sizes")
    root = Path(spec.root).expanduser()
    train = root / (spec.train or "train")
    test = root / (spec.test or ("test" if (root / "test").is_dir() or not (root / "val").is_dir() else "val"))
    val = root / spec.val if spec.val is not None else None
    _check_distinct(train=train, test=test, val=val)
    classes = _list_classes(train)

    def load(folder: Path) -> Split:
        if (found := _list_classes(folder)) != classes:
            differing = sorted(set(found) ^ set(classes))
            raise DataError(
                f"{folder}: its classes differ from those of {train} in {_abbreviate(differing)}; expected the same"
                " sub-folders in both, add or remove those"
            )
        files: list[Path] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            members, others = list_images(folder / name)
            if not members:
                raise DataError(
                    f"{folder / name}: holds no image file; expected at least one of "
                    f"{_abbreviate(sorted(IMAGE_SUFFIXES))};"
                    " add images or remove the class from every split"
                )
            files += members
            labels += [label] * len(members)
            skipped.update(others)
        skipped.update(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
        return FolderSplit(PathList(folder, files), np.asarray(labels, dtype=np.int64), spec.image_size)

    skipped: set[Path] = set()
    splits = load(train), load(test), load(val) if val is not None else None
    return RawData(*splits, classes=len(classes), warnings=_describe_skipped(skipped))


def list_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """List the image files in `folder` and its sub-folders in order, and the files with other endings.

    Hidden files and folders are left out. Links to folders are followed.
    """
    images: list[Path] = []
    others: list[Path] = []
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()  # a link to a folder above
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in (Path(place, name) for name in names if not name.startswith(".")):
            (images if file.suffix.lower() in IMAGE_SUFFIXES else others).append(file)
    return sorted(images), sorted(others)


def _describe_skipped(files: Iterable[Path]) -> tuple[str, ...]:
    endings = Counter(file.suffix.lower() or "no ending" for file in files)
    if not endings:
        return ()
    named = [f"{count:,} with {ending}" for ending, count in sorted(endings.items(), key=lambda item: -item[1])]
    total = "1 file is" if endings.total() == 1 else f"{endings.total():,} files are"
    return (f"{total} not read as images, by their endings or places: {_abbreviate(named)}",)


@register_dataset("npz")
def load_npz_files(spec: DataSpec) -> RawData:
    """NumPy archives with `x` uint8 (N, height, width, 1 or 3), `y` integer (N,), and optionally names in `classes`."""
    if spec.train is None or spec.test is None:
        missing = "train" if spec.train is None else "test"
        raise ConfigError(f"data.{missing} is not set; dataset 'npz' expects the paths of a train and a test .npz file")
    root = Path(spec.root or ".").expanduser()
    train, test = (root / Path(path).expanduser() for path in (spec.train, spec.test))
    val = root / Path(spec.val).expanduser() if spec.val is not None else None
    _check_distinct(train=train, test=test, val=val)
    images, labels, named = load_npz(train)
    classes = max(int(labels.max()) + 1, named or 0)
    if named is not None and named < classes:
        raise DataError(
            f"{train}: classes holds {named} names but y reaches {classes - 1}; expected one name per class; add them"
        )

    def load_split(path: Path) -> Split:
        return ArraySplit(*load_npz(path)[:2])

    return RawData(
        ArraySplit(images, labels), load_split(test), load_split(val) if val is not None else None, classes=classes
    )


def _check_distinct(**sources: Path | None) -> None:
    """Raise DataError if two splits come from one source: they would share their images."""
    seen: dict[Path, str] = {}
    for name, source in sources.items():
        if source is None:
            continue
        resolved = source.resolve()
        if resolved in seen:
            raise DataError(
                f"{source}: serves as data.{seen[resolved]} and data.{name}; expected different images in each, name"
                " another source"
            )
        seen[resolved] = name


def _list_classes(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected one sub-folder of images per class; check data.root")
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise DataError(f"{folder}: has no sub-folders; expected one per class, with its images inside; sort them so")
    return names


def _abbreviate(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
