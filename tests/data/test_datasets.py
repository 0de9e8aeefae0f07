"""Data sets by name, from real files, and one-line errors for invalid ones."""

from __future__ import annotations

import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from blendsearch.data import datasets
from blendsearch.data import split as images_module
from blendsearch.data.splits import DataSpec, Split, Splits, load_splits
from blendsearch.errors import ConfigError, DataError

GOOD_X = np.random.default_rng(0).integers(0, 256, size=(12, 8, 6, 3), dtype=np.uint8)
GOOD_Y = np.arange(12) % 3


def everything(split: Split) -> NDArray[np.uint8]:
    return split.load_images(np.arange(len(split)))


def load_npz(folder: Path, train: dict[str, object], test: dict[str, object] | None = None) -> Splits:
    np.savez(folder / "train.npz", **train)  # type: ignore[arg-type]
    np.savez(folder / "test.npz", **(test or {"x": GOOD_X, "y": GOOD_Y}))  # type: ignore[arg-type]
    return load_splits(DataSpec("npz", str(folder), "train.npz", "test.npz", val_size=0.25), 0)


def test_an_unknown_data_set_is_refused_with_the_known_ones_and_a_guess() -> None:
    with pytest.raises(ConfigError, match="'cifar-10' is unknown.*cifar10, cifar100.*did you mean 'cifar10'"):
        load_splits(DataSpec("cifar-10"), 0)


def test_digits_are_those_of_scikit_learn_wherever_its_file_is(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_digits()
    table = datasets._read_digits()
    assert (table[:, :-1].reshape(-1, 8, 8) == expected.images).all() and (table[:, -1] == expected.target).all()
    monkeypatch.setattr(datasets, "_find_digits", lambda: None)
    assert (datasets._read_digits() == table).all()


def test_digits_use_the_full_range_and_the_same_halves_for_every_seed() -> None:
    first, second = (load_splits(DataSpec("digits"), seed) for seed in (0, 1))
    assert first.classes == 10
    assert first.train.shape == (8, 8, 1)
    assert len(first.train) + len(first.val) == 898 and len(first.test) == 899
    assert everything(first.train).max() == 255 and everything(first.train).min() == 0
    assert np.bincount(first.test.labels).min() >= 87

    def sorted_images(split: Split) -> list[bytes]:
        return sorted(image.tobytes() for image in everything(split))

    assert sorted_images(first.test) == sorted_images(second.test)
    assert everything(first.test).tobytes() != everything(second.test).tobytes()


def test_an_npz_keeps_images_with_their_labels(tmp_path: Path) -> None:
    splits = load_npz(tmp_path, {"x": GOOD_X, "y": GOOD_Y.astype(np.uint8)})
    known = {image.tobytes(): label for image, label in zip(GOOD_X, GOOD_Y, strict=True)}
    for split in (splits.train, splits.val, splits.test):
        assert split.labels.dtype == np.int64
        for image, label in zip(everything(split), split.labels, strict=True):
            assert known[image.tobytes()] == label


def test_class_names_in_an_npz_set_the_number_of_classes(tmp_path: Path) -> None:
    splits = load_npz(tmp_path, {"x": GOOD_X, "y": GOOD_Y, "classes": np.array(list("abcde"))})
    assert splits.classes == 5
    with pytest.raises(DataError, match="classes holds 2 names but y reaches 2"):
        load_npz(tmp_path, {"x": GOOD_X, "y": GOOD_Y, "classes": np.array(list("ab"))})


FLOATS = (GOOD_X / 255).astype(np.float32)
NOT_A_NUMBER = np.where(np.arange(12)[:, None, None, None] == 3, np.nan, FLOATS)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": GOOD_Y}, "has no array x, only y; expected x .images. and y"),
        ({"images": GOOD_X, "labels": GOOD_Y}, "has no array x nor y, only images, labels"),
        ({"x": FLOATS, "y": GOOD_Y}, r"x is float32; expected uint8.*\(x \* 255\)\.round\(\)\.astype"),
        ({"x": GOOD_X.astype(float), "y": GOOD_Y}, r"x is float64; expected uint8.*convert with x\.round\(\)"),
        ({"x": FLOATS - 0.5, "y": GOOD_Y}, "undo its normalisation"),
        ({"x": NOT_A_NUMBER, "y": GOOD_Y}, "holds 144 NaN or infinite values"),
        ({"x": np.full_like(FLOATS, np.inf), "y": GOOD_Y}, "NaN or infinite"),
        ({"x": GOOD_X.astype(np.int64), "y": GOOD_Y}, r"x is int64.*x\.astype\(np\.uint8\)"),
        ({"x": GOOD_X.astype(np.int64) - 1, "y": GOOD_Y}, "x is int64.*scale and convert"),
        ({"x": GOOD_X.transpose(0, 3, 1, 2), "y": GOOD_Y}, r"channels first.*x\.transpose\(0, 2, 3, 1\)"),
        ({"x": GOOD_X[..., 0], "y": GOOD_Y}, r"shape \(12, 8, 6\).*x\[\.\.\., None\]"),
        ({"x": GOOD_X.reshape(12, -1), "y": GOOD_Y}, r"shape \(12, 144\); expected 4 dimensions"),
        ({"x": GOOD_X.repeat(2, axis=3), "y": GOOD_Y}, "has 6 channels"),
        ({"x": GOOD_X[:0], "y": GOOD_Y[:0]}, "no pixels; expected at least one image"),
        ({"x": GOOD_X, "y": GOOD_Y[:-1]}, "12 images but y has 11 labels"),
        ({"x": GOOD_X, "y": GOOD_Y.astype(float)}, "y is float64; expected integer"),
        ({"x": GOOD_X, "y": GOOD_Y.astype(bool)}, "y is bool; expected integer"),
        ({"x": GOOD_X, "y": GOOD_Y - 1}, r"y\[0\] is -1; expected class numbers from 0"),
        ({"x": GOOD_X, "y": np.eye(3, dtype=int)[GOOD_Y]}, r"looks one-hot.*y\.argmax\(axis=1\)"),
        ({"x": GOOD_X, "y": GOOD_Y[:, None]}, r"is not 1-D.*y\.ravel\(\)"),
        ({"x": GOOD_X, "y": GOOD_Y.astype(np.uint64) * 2**62}, "y reaches 9223372036854775808"),
        ({"x": GOOD_X, "y": GOOD_Y.astype(object)}, "Python objects, which are never unpickled"),
        ({"x": GOOD_X, "y": GOOD_Y, "classes": np.array(["a", "b", "c"], dtype=object)}, "never unpickled"),
        ({"x": GOOD_X, "y": GOOD_Y, "classes": np.array("abc")}, "classes has 0 dimensions"),
    ],
)
def test_a_bad_npz_is_refused_in_one_line_that_names_it(
    tmp_path: Path, arrays: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_npz(tmp_path, arrays)
    assert str(caught.value).startswith(str(tmp_path / "train.npz") + ": ")
    assert "\n" not in str(caught.value)


def test_objects_in_an_npz_are_never_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    with pytest.raises(DataError, match="never unpickled"):
        load_npz(tmp_path, {"x": GOOD_X, "y": np.array([Trap()] * 12)})
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an .npz archive"),
        (b"label,pixel\n", "is not an .npz archive"),
        (pickle.dumps([1, 2]), "is not an .npz archive"),
        ("npy", "is not an .npz archive"),
        ("cut", "is not an .npz archive"),
        ("flipped", "is damaged"),
    ],
)
def test_an_incomplete_archive_is_refused(tmp_path: Path, content: bytes | str, message: str) -> None:
    np.savez_compressed(tmp_path / "whole.npz", x=GOOD_X, y=GOOD_Y)
    whole = (tmp_path / "whole.npz").read_bytes()
    np.save(tmp_path / "array.npy", GOOD_X)
    written = {
        "npy": (tmp_path / "array.npy").read_bytes(),
        "cut": whole[: len(whole) // 2],
        "flipped": whole[:200] + bytes(255 - byte for byte in whole[200:260]) + whole[260:],
    }
    (tmp_path / "bad.npz").write_bytes(written[content] if isinstance(content, str) else content)
    with pytest.raises(DataError, match=f"bad.npz: {message}"):
        load_splits(DataSpec("npz", str(tmp_path), "bad.npz", "whole.npz"), 0)


def test_a_missing_npz_or_setting_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere.npz: no such file"):
        load_splits(DataSpec("npz", str(tmp_path), "nowhere.npz", "nowhere-else.npz"), 0)
    with pytest.raises(ConfigError, match="data.test is not set"):
        load_splits(DataSpec("npz", str(tmp_path), "nowhere.npz"), 0)


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ({"x": GOOD_X, "y": GOOD_Y + 1}, r"test data have label 3 \(4 images outside\); expected 0\.\.2"),
        ({"x": GOOD_X[:, :4], "y": GOOD_Y}, r"test images have shape \(4, 6, 3\).*training images \(8, 6, 3\)"),
        ({"x": GOOD_X[..., :1], "y": GOOD_Y}, r"test images have shape \(8, 6, 1\)"),
    ],
)
def test_mismatched_test_data_are_refused(tmp_path: Path, test: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_npz(tmp_path, {"x": GOOD_X, "y": GOOD_Y}, test)


@pytest.mark.parametrize(("test", "val"), [("train.npz", None), ("test.npz", "./test.npz"), ("test.npz", "link.npz")])
def test_one_file_cannot_serve_as_two_splits(tmp_path: Path, test: str, val: str | None) -> None:
    for name in ("train.npz", "test.npz"):
        np.savez(tmp_path / name, x=GOOD_X, y=GOOD_Y)
    (tmp_path / "link.npz").symlink_to(tmp_path / "test.npz")
    with pytest.raises(DataError, match="serves as data.* expected different images in each"):
        load_splits(DataSpec("npz", str(tmp_path), "train.npz", test, val), 0)


def write_folder(root: Path, *, parts: tuple[str, ...] = ("train", "test"), size: tuple[int, int] = (20, 14)) -> None:
    """Write three images for each of two classes in every part; the colour of an image identifies it."""
    for number, part in enumerate(parts):
        for label, name in enumerate(("ant", "bee")):
            (root / part / name).mkdir(parents=True)
            for index in range(3):
                Image.new("RGB", size, (50 * number, 100 * label, 10 * index)).save(root / part / name / f"{index}.png")


def test_an_image_folder_numbers_classes_by_name_and_decodes_on_demand(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "train" / "ant" / "notes.txt").write_text("not an image")
    splits = load_splits(DataSpec("image-folder", str(tmp_path), val_from="test", val_size=2), 0)
    assert splits.classes == 2 and splits.train.shape == (14, 20, 3)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (6, 2, 4)
    for number, split in ((0, splits.train), (1, splits.test), (1, splits.val)):
        decoded = everything(split)
        assert (decoded[..., 0] == 50 * number).all()
        assert decoded[:, 5, 5, 1].tolist() == (100 * split.labels).tolist()
    assert sorted(everything(splits.train)[:, 0, 0, 2].tolist()) == [0, 0, 10, 10, 20, 20]


def test_a_folder_falls_back_to_val_for_its_test_images(tmp_path: Path) -> None:
    write_folder(tmp_path, parts=("train", "val"))
    splits = load_splits(DataSpec("image-folder", str(tmp_path), val_size=2), 0)
    assert (everything(splits.test)[..., 0] == 50).all()
    with pytest.raises(DataError, match="serves as data.test and data.val"):
        load_splits(DataSpec("image-folder", str(tmp_path), val="val"), 0)


def test_images_are_resized_by_their_shorter_side_and_cut_in_the_centre(tmp_path: Path) -> None:
    write_folder(tmp_path, size=(80, 32))
    stripes = np.zeros((32, 80, 3), dtype=np.uint8)
    stripes[:, 24:56] = 200  # the centre square, which alone survives
    Image.fromarray(stripes).save(tmp_path / "train" / "ant" / "0.png")
    splits = load_splits(DataSpec("image-folder", str(tmp_path), image_size=14, val_from="test", val_size=2), 0)
    assert splits.train.shape == (14, 14, 3)
    decoded = everything(splits.train)
    assert decoded.shape == (6, 14, 14, 3)
    assert (decoded[(decoded == 200).all(axis=(1, 2, 3))].shape) == (1, 14, 14, 3)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_images_of_any_mode_become_rgb(tmp_path: Path, mode: str) -> None:
    file = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.new("RGB", (6, 4), (255, 255, 255)).convert(mode).save(file)
    assert (images_module.decode(file, None) == np.full((4, 6, 3), 255)).all()


@pytest.mark.parametrize("content", [b"", b"no image at all", "cut"])
def test_an_unreadable_image_is_named_when_it_is_decoded(tmp_path: Path, content: bytes | str) -> None:
    write_folder(tmp_path)
    bad = tmp_path / "test" / "bee" / "1.png"
    Image.fromarray(GOOD_X[0].repeat(9, axis=0)).save(bad)
    bad.write_bytes(bad.read_bytes()[:200] if isinstance(content, str) else content)
    splits = load_splits(DataSpec("image-folder", str(tmp_path), val_size=2, image_size=8), 0)
    with pytest.raises(DataError, match="bee/1.png: cannot be read as an image .*; replace or remove it") as caught:
        everything(splits.test)
    assert "\n" not in str(caught.value)


def test_images_of_several_sizes_need_an_image_size(tmp_path: Path) -> None:
    write_folder(tmp_path)
    Image.new("RGB", (9, 9)).save(tmp_path / "test" / "bee" / "2.png")
    splits = load_splits(DataSpec("image-folder", str(tmp_path), val_size=2), 0)
    with pytest.raises(DataError, match="bee/2.png: the image is 9x9, expected 20x14 .*; set data.image_size"):
        everything(splits.test)


def test_a_folder_that_does_not_fit_is_refused_with_what_differs(tmp_path: Path) -> None:
    write_folder(tmp_path)
    spec = DataSpec("image-folder", str(tmp_path), val_size=2)
    with pytest.raises(DataError, match="image_size is 0"):
        load_splits(DataSpec("image-folder", str(tmp_path), image_size=0), 0)
    with pytest.raises(ConfigError, match="data.root is not set"):
        load_splits(DataSpec("image-folder"), 0)
    with pytest.raises(DataError, match="absent: no such folder"):
        load_splits(DataSpec("image-folder", str(tmp_path), train="absent"), 0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: has no sub-folders; expected one per class"):
        load_splits(DataSpec("image-folder", str(tmp_path), train="empty"), 0)
    (tmp_path / "test" / "cow").mkdir()
    with pytest.raises(DataError, match="test: its classes differ from those of .*train in cow"):
        load_splits(spec, 0)
    (tmp_path / "train" / "cow").mkdir()
    with pytest.raises(DataError, match="train/cow: holds no image file"):
        load_splits(spec, 0)


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes())


def test_fashion_mnist_is_read_from_its_idx_files(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 40), ("t10k", 20)):
        write_idx(raw / f"{prefix}-images-idx3-ubyte", rng.integers(0, 256, size=(count, 28, 28), dtype=np.uint8))
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))
    splits = load_splits(DataSpec("fashion-mnist", str(tmp_path), val_size=10), 0)
    assert splits.train.shape == (28, 28, 1) and splits.classes == 10
    assert (len(splits.train), len(splits.val), len(splits.test)) == (30, 10, 20)


def test_cifar10_is_read_with_channels_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10  # type: ignore[import-untyped]

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()

    def write(name: str, content: object) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    planes = np.tile(np.repeat(np.array([10, 20, 30], dtype=np.uint8), 1024), (20, 1))
    batch = {"data": planes, "labels": [index % 10 for index in range(20)]}
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", write("data_batch_1", batch)]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", write("test_batch", batch)]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": write("batches.meta", {"label_names": list("a")})}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    splits = load_splits(DataSpec("cifar10", str(tmp_path), val_size=10), 0)
    assert splits.train.shape == (32, 32, 3)
    assert (everything(splits.test) == np.array([10, 20, 30], dtype=np.uint8)).all()


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion-mnist"])
def test_a_missing_data_set_states_the_folder_and_how_to_download_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"{name} was looked for in {tmp_path}.* data.download to true") as caught:
        load_splits(DataSpec(name, str(tmp_path)), 0)
    assert "\n" not in str(caught.value)
