"""Pairs, lists and user-defined data sets: all forms of targets, and items that cannot be used."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset

from blendsearch.data.sources import UserData
from blendsearch.data.splits import DataSpec, Splits
from blendsearch.data.user_data import load_user_splits
from blendsearch.errors import DataError
from blendsearch.task import CLASSIFICATION, Task

X = torch.rand(60, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(60) % 3


def load(data: Any, task: Task = CLASSIFICATION) -> Splits:
    return load_user_splits(UserData(data), task, DataSpec("python:Data"), 0)


@pytest.mark.parametrize(
    "targets",
    [
        *(Y, Y.numpy(), Y.tolist(), tuple(Y.tolist()), list(Y), list(Y.numpy()), Y.int(), Y.float(), Y[:, None]),
        *(F.one_hot(Y, 3), F.one_hot(Y, 3).float(), F.one_hot(Y, 3).tolist()),
    ],
    ids=lambda item: f"{type(item).__name__} {getattr(item, 'dtype', '')}",
)
def test_targets_of_all_forms_are_classes(targets: Any) -> None:
    found, expected = load((X, targets)), load((X, Y))
    assert found.classes == 3 and found.compute_digest() == expected.compute_digest()


def test_lists_of_images_are_paired_with_their_targets() -> None:
    pictures = [Image.fromarray(np.full((8, 8, 3), number, dtype=np.uint8)) for number in range(60)]
    for images in (pictures, list(X), list(X.numpy())):
        found = load((images, Y.tolist()))
        assert len(found.train) + len(found.val) + len(found.test) == 60 and found.classes == 3


def test_targets_of_another_number_are_refused() -> None:
    with pytest.raises(DataError, match="60 images but 59 targets"):
        load((X, Y.tolist()[:59]))


def test_other_targets_name_their_type_and_shape() -> None:
    with pytest.raises(DataError, match=r"not classes .* but float32 of shape \(2,\)"):
        load((X, torch.rand(60, 2)))
    assert load((X, F.one_hot(Y, 3).float()), Task(loss=F.mse_loss)).classes == 0


class Items(Dataset[Any]):
    """Item 40 is made by `broken`."""

    def __init__(self, broken: Callable[[], Any]) -> None:
        self.broken = broken

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> Any:
        return self.broken() if index == 40 else (X[index], int(Y[index]))


class Stream(IterableDataset[Any]):
    def __init__(self, items: Items) -> None:
        self.items = items

    def __iter__(self) -> Any:
        return (self.items[index] for index in range(60))


def fail() -> Any:
    raise OSError("image file is truncated")


BROKEN: dict[str, tuple[Callable[[], Any], str]] = {
    "raises": (fail, r"item 40 of the full data cannot be read \(OSError: image file is truncated\)"),
    "no image": (lambda: (None, 1), "item 40 of the full data: its image is None: expected a PIL image"),
    "no item": (lambda: None, "item 40 of the full data: the full data yield a NoneType"),
    "path": (lambda: ("a.png", 1), "item 40 of the full data: its image is a str"),
    "number": (lambda: (3.0, 1), r"item 40 of the full data: its image has shape \(\)"),
    "hole": (lambda: (X[0] * float("nan"), 1), "item 40 of the full data: its image holds NaN"),
    "shape": (lambda: (X[0, :, :4], 1), r"from item 40, \(3, 4, 8\)"),
    "type": (lambda: ((X[0] * 255).byte(), 1), "float32 and, from item 40, uint8"),
    "no target": (lambda: (X[0], None), "without targets, from item 40: expected"),
    "no values": (
        lambda: (X[0].to("meta"), 1),
        "item 40 of the full data: its image cannot be used: a tensor",
    ),
    "unknown depth": (lambda: (Image.new("I", (8, 8)), 1), "item 40 .* its image cannot be used: it has 32-bit pixels"),
    "objects": (lambda: (np.array([[None]]), 1), "item 40 of the full data: its image is an array of object"),
    "text target": (lambda: (X[0], "cat"), "item 40: a str"),
    "long target": (lambda: (X[0], [1, 2]), r"item 40 has shape \(2,\)"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_items_that_cannot_be_used_are_named(name: str) -> None:
    make, message = BROKEN[name]
    with pytest.raises(DataError, match=message) as caught:
        load(Items(make))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["raises", "no image", "no item", "path"])
@pytest.mark.parametrize("wrap", [lambda data: DataLoader(data, batch_size=16), Stream], ids=["loader", "stream"])
def test_items_of_loaders_and_streams_are_named(name: str, wrap: Callable[[Items], Any]) -> None:
    make, message = BROKEN[name]
    with pytest.raises(DataError, match=message):
        load(wrap(Items(make)))


ODD_DATA: dict[str, tuple[Callable[[], Any], str]] = {
    "a dictionary of targets": (
        lambda: (X, dict(enumerate(Y))),
        "the full targets are a dict: expected an array",
    ),
    "a generator of targets": (lambda: (X, (int(item) for item in Y)), "the full targets are a generator: expected"),
    "no targets": (lambda: (X, None), "the full targets are None: expected an array or a list with one entry"),
    "a dictionary": (
        lambda: {"image": X, "label": Y},
        "the full data are a dict: expected a Dataset",
    ),
    "sequences": (
        lambda: (X[:, :, 0], Y),
        "expected .images, channels, height, width. of floats; add an axis",
    ),
    "integers": (lambda: ((X * 9).int(), Y), "the full images are int32: expected float32 .* convert them"),
    "no values": (lambda: (X.to("meta"), Y), "the full images cannot be used .a tensor on the meta device"),
}


@pytest.mark.parametrize("name", ODD_DATA)
def test_data_that_cannot_be_used_are_described(name: str) -> None:
    make, message = ODD_DATA[name]
    with pytest.raises(DataError, match=message) as caught:
        load(make())
    assert "\n" not in str(caught.value)


def test_sparse_images_are_read() -> None:
    splits = load((X.to_sparse(), Y))
    assert len(splits.train) + len(splits.val) + len(splits.test) == len(X)
