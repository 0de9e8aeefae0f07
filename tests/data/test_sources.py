"""Data sets by name: user-defined functions, classes of torchvision, and Hugging Face with a fake loader."""

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from PIL import Image
from workflows import Records, make_classes

from blendsearch.data.datasets import DataSpec
from blendsearch.data.sources import UserData, load_source
from blendsearch.data.splits import Splits
from blendsearch.data.user_data import load_user_splits
from blendsearch.errors import ConfigError, DataError
from blendsearch.task import CLASSIFICATION


def load(**fields: Any) -> Splits:
    spec = DataSpec(**fields)
    return load_user_splits(load_source(spec), CLASSIFICATION, spec, 0)


def count(splits: Splits) -> tuple[int, int]:
    return len(splits.train) + len(splits.val), len(splits.test)


def test_functions_return_one_data_set_or_its_parts() -> None:
    assert sum(count(load(dataset="workflows:make_classes", arguments={"count": 45}))) == 45
    assert count(load(dataset="workflows:make_parts", arguments={"count": 30})) == (30, 15)
    pair = make_classes(60).tensors
    python = load_user_splits(UserData(pair), CLASSIFICATION, DataSpec("python:x"), 0)
    assert load(dataset="workflows:make_classes").compute_digest() == python.compute_digest()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dataset": "workflows:missing"}, "data.dataset: 'workflows:missing' could not be imported"),
        ({"dataset": "workflows:make_classes", "arguments": {"size": 1}}, "'workflows:make_classes' failed .TypeError"),
        ({"dataset": "torchvision:CIFAR"}, "torchvision has no data set 'CIFAR': did you mean CIFAR10"),
        ({"dataset": "torchvision:CIFAR10", "root": "nowhere"}, "could not be loaded .RuntimeError.*data.download"),
        ({"dataset": "huggingface"}, "expects data.name"),
        ({"dataset": "huggingface", "name": "a/b"}, "expects data.keys"),
        ({"dataset": "workflows:Records"}, "a dictionary of img, label, id: name image and target by data.keys"),
        (
            {"dataset": "workflows:Records", "keys": ("image", "label")},
            "it has no 'image': data.keys can be img, label",
        ),
    ],
)
def test_what_cannot_be_loaded_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message.replace("failed .TypeError", "failed: TypeError")):
        load(**fields)


def test_dictionaries_are_read_by_keys_and_images_in_one_size() -> None:
    found = load(dataset="workflows:Records", keys=("img", "label"), image_size=16)
    assert found.train.shape == (16, 16, 3) and found.classes == 3 and sum(count(found)) == 30
    whole = Records(30)
    python = load_user_splits(
        UserData([{**whole[index], "img": np.asarray(whole[index]["img"])[:20, :20]} for index in range(30)]),
        CLASSIFICATION,
        DataSpec("python:x", keys=("img", "label")),
        0,
    )
    assert python.train.shape == (20, 20, 3)


def test_classes_of_torchvision_are_found_by_their_parts(tmp_path: Path) -> None:
    class ByFlag(torchvision.datasets.FakeData):
        def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
            super().__init__(30 if train else 12, (3, 8, 8), 3)
            assert not download and root == str(tmp_path)

    class BySplit(torchvision.datasets.FakeData):
        def __init__(self, root: str, split: str = "train", level: int = 0) -> None:
            if split not in ("train", "val"):
                raise ValueError(f"unknown split {split}")
            super().__init__(30 if split == "train" else 9, (3, 8, 8), 3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchvision.datasets, "ByFlag", ByFlag, raising=False)
        patch.setattr(torchvision.datasets, "BySplit", BySplit, raising=False)
        assert count(load(dataset="torchvision:ByFlag", root=str(tmp_path))) == (30, 12)
        assert count(load(dataset="torchvision:BySplit", root=str(tmp_path), arguments={"level": 1})) == (30, 9)


def test_parts_of_hugging_face_are_found_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(name: str, download_config: Any, **arguments: Any) -> dict[str, Any]:
        asked.append((name, download_config.local_files_only, arguments))
        return {"train": Records(30), "validation": Records(12), "test": Records(9)}

    fake = types.ModuleType("datasets")
    fake.load_dataset = load_dataset  # type: ignore[attr-defined]
    fake.DownloadConfig = lambda local_files_only: types.SimpleNamespace(  # type: ignore[attr-defined]
        local_files_only=local_files_only
    )
    monkeypatch.setitem(sys.modules, "datasets", fake)
    fields: dict[str, Any] = {"dataset": "huggingface", "name": "a/b", "keys": ("img", "label"), "image_size": 8}
    found = load(**fields, arguments={"revision": "main"})
    assert (len(found.train), len(found.val), len(found.test)) == (30, 12, 9)
    assert asked == [("a/b", True, {"revision": "main"})]
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"needs datasets: pip install 'blendsearch\[huggingface\]'"):
        load(**fields)


def test_masks_keep_their_classes_and_follow_their_images() -> None:
    from blendsearch.data.sources import SelectedItems

    mask = Image.fromarray(np.repeat(np.array([[0, 1], [2, 3]], dtype=np.uint8), 16, axis=0).repeat(16, axis=1))
    mask = mask.convert("P")
    image, target = SelectedItems([(mask.convert("RGB"), mask)], None, 16)[0]
    assert image.size == (16, 16) and target.shape == (16, 16) and set(np.unique(target)) <= set(range(256))
    assert len(np.unique(target)) == 4
