"""Data sets by name that are read like user-defined ones: of torchvision, Hugging Face, or a user-defined function."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from blendsearch.data.datasets import DEFAULT_ROOT, DataSpec
from blendsearch.data.pixel_depth import convert_pixels
from blendsearch.data.source_names import HUGGING_FACE
from blendsearch.errors import ConfigError, DataError, format_error
from blendsearch.extras import format_missing
from blendsearch.user_code import import_function

PARTS = ("train", "val", "test")
PART_NAMES = {"val": ("validation", "val", "valid"), "test": ("test",), "train": ("train",)}
"""Names of each part in data sets of Hugging Face; without a test part, the validation part is divided."""


@dataclass(frozen=True)
class UserData:
    """User-defined data by role. `whole` is divided into the three splits.

    Each is a ``torch.utils.data.Dataset`` or any sequence of (image, target), a ``DataLoader``, or a pair of arrays or
    tensors (images, targets). Float images have shape (channels, height, width) and reach the network unchanged. uint8
    and PIL images are normalised by the mean and standard deviation of the training images, or by those of the config.
    """

    whole: Any = None
    train: Any = None
    val: Any = None
    test: Any = None


class SelectedItems(Dataset[Any]):
    """Items of `dataset` as (image, target): of dictionaries by two keys, and PIL images in one size and mode.

    With `image_size`, the shorter side is resized to 256/224 of it and the centre square is cut out, of PIL masks too.
    """

    def __init__(self, dataset: Any, keys: tuple[str, ...] | None, image_size: int | None) -> None:
        self.dataset, self.keys, self.image_size = dataset, keys, image_size

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        item = self.dataset[index]
        if self.keys is not None and isinstance(item, Mapping):
            if missing := [key for key in self.keys if key not in item]:
                raise DataError(f"it has no {missing[0]!r}: data.keys can be {', '.join(map(str, item))}")
            item = tuple(item[key] for key in self.keys)
        if not isinstance(item, tuple | list) or len(item) < 2:
            return item
        return self._fit(item[0], is_image=True), self._fit(item[1], is_image=False)

    def _fit(self, value: Any, is_image: bool) -> Any:
        if not isinstance(value, Image.Image):
            return value
        if is_image:
            value = convert_pixels(value)
            value = value.convert("RGB") if self.image_size is not None or value.mode != "L" else value
        if self.image_size is not None:
            value = _crop(value, self.image_size, Image.Resampling.BILINEAR if is_image else Image.Resampling.NEAREST)
        return value if is_image else np.asarray(value)


def load_source(spec: DataSpec) -> UserData:
    """Load the data set that `spec` names. Raises ConfigError for an unknown name, DataError for unsuitable data."""
    place, _, name = spec.dataset.rpartition(":")
    if spec.dataset == HUGGING_FACE:
        found = _load_hugging_face(spec)
    elif place == "torchvision":
        found = _load_torchvision(name, spec)
    else:
        found = _call_function(spec)
    return UserData(**{part: select_items(value, spec) for part, value in found.items()})


def select_items(source: Any, spec: DataSpec) -> Any:
    """Return `source` with the keys and the image size of `spec`, where it is read by index."""
    asked = spec.keys is not None or spec.image_size is not None
    is_pair = isinstance(source, tuple) and len(source) == 2
    if not asked or is_pair or not (hasattr(source, "__getitem__") and hasattr(source, "__len__")):
        return source
    return SelectedItems(source, spec.keys, spec.image_size)


def _call_function(spec: DataSpec) -> dict[str, Any]:
    function = import_function(spec.dataset, "data.dataset")
    try:
        made = function(**spec.arguments)
    except Exception as error:  # user-defined code may raise anything
        raise DataError(f"data.dataset {spec.dataset!r} failed: {format_error(error)}") from error
    if not isinstance(made, Mapping):
        return {"whole": made}
    if unknown := made.keys() - set(PARTS):
        raise DataError(f"data.dataset {spec.dataset!r} returned {min(map(str, unknown))!r}: expected train, val, test")
    return dict(made)


def _load_torchvision(name: str, spec: DataSpec) -> dict[str, Any]:
    from torchvision import datasets

    make = getattr(datasets, name, None)
    if not (isinstance(make, type) and issubclass(make, Dataset)):
        near = difflib.get_close_matches(name, datasets.__all__, 3)
        raise ConfigError(
            f"torchvision has no data set {name!r}" + (f": did you mean {', '.join(near)}?" if near else "")
        )
    known = inspect.signature(make).parameters
    common: dict[str, Any] = {"root": str(Path(spec.root or DEFAULT_ROOT).expanduser()), **spec.arguments}
    if "download" in known:
        common["download"] = spec.download

    def load(**chosen: Any) -> Any:
        try:
            return make(**{**chosen, **common})
        except Exception as error:  # files that are missing, or arguments that do not fit
            hint = "set data.root to the folder that holds it, or data.download to true"
            raise DataError(f"{spec.dataset} could not be loaded ({format_error(error)}); {hint}") from error

    selector = next((item for item in ("train", "split", "image_set") if item in known and item not in common), None)
    if selector is None:
        return {"whole": load()}
    if selector == "train":
        return {"train": load(train=True), "test": load(train=False)}
    try:
        test = load(**{selector: "test"})
    except DataError:
        test = load(**{selector: "val"})
    return {"train": load(**{selector: "train"}), "test": test}


def _load_hugging_face(spec: DataSpec) -> dict[str, Any]:
    if spec.name is None or spec.keys is None:
        missing = "name, such as uoft-cs/cifar10" if spec.name is None else "keys, of image and target: [img, label]"
        raise ConfigError(f"data.dataset huggingface expects data.{missing}")
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(format_missing("data.dataset huggingface", "huggingface")) from error
    try:
        config = datasets.DownloadConfig(local_files_only=not spec.download)
        found = datasets.load_dataset(spec.name, download_config=config, **spec.arguments)
    except Exception as error:  # of its loader, or of the network
        hint = "" if spec.download else "; set data.download to true to download it"
        raise DataError(f"{spec.name} could not be loaded ({format_error(error)}){hint}") from error
    if not isinstance(found, Mapping):
        return {"whole": found}
    parts = {part: found[name] for part, names in PART_NAMES.items() for name in names if name in found}
    if "train" not in parts:
        raise DataError(
            f"{spec.name} has no part train, only {', '.join(map(str, found))}: name one by data.arguments.split"
        )
    return parts


def _crop(image: Image.Image, size: int, method: Image.Resampling) -> Image.Image:
    scale = round(size * 256 / 224) / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    return image.resize((width, height), method).crop((left, top, left + size, top + size))
