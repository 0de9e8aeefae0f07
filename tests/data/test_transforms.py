"""Transforms by name: presets and user-defined functions, in training and in evaluation."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from blendsearch.data.sources import UserData
from blendsearch.data.split import decode, open_image
from blendsearch.data.splits import DataSpec, Splits, load_splits
from blendsearch.data.user_data import load_user_splits
from blendsearch.errors import ConfigError, DataError
from blendsearch.task import Task

CPU = torch.device("cpu")


def make_picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Make a smooth random picture, like a photograph and unlike noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, part in enumerate(("train", "test")):
        for label, name in enumerate(("ant", "bee")):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(4):
                picture = make_picture(90, 70, 100 * number + 10 * label + index)
                picture.save(tmp_path / part / name / f"{index}.png")
    return tmp_path


def read_training(splits: Splits, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    batches = splits.iter_batches(splits.train, batch_size=4, device=CPU, rng=rng, augment=splits.augment)
    return torch.cat([x for x, _ in batches])


def everything(splits: Splits) -> list[np.ndarray]:
    return [part.load_images(np.arange(len(part))) for part in (splits.train, splits.val, splits.test)]


def test_cifar_is_flip_and_crop_with_the_same_random_numbers() -> None:
    preset, named, both = (
        load_splits(DataSpec("digits", train_limit=40, **changes), 0)
        for changes in (
            {"transforms": "cifar"},
            {"augment": ("flip", "crop")},
            {"transforms": "cifar", "augment": ("crop", "shift")},
        )
    )
    assert preset.augment == ("flip", "crop") and both.augment == ("flip", "crop", "shift")
    assert torch.equal(read_training(preset), read_training(named))
    assert preset.compute_digest() == named.compute_digest()


def test_imagenet_evaluates_the_centre_of_a_folders_image_and_trains_on_random_parts(folder: Path) -> None:
    preset, plain = (
        load_splits(DataSpec("image-folder", str(folder), val_size=2, image_size=32, transforms=name), 0)
        for name in ("imagenet", "none")
    )
    assert preset.augment == ("transforms",) and plain.augment == ()
    assert all(np.array_equal(*pair) for pair in zip(everything(preset), everything(plain), strict=True))
    assert preset.compute_digest() == plain.compute_digest()
    first, again, other = read_training(preset), read_training(preset), read_training(preset, 1)
    assert first.shape == (6, 3, 32, 32) and torch.equal(first, again) and not torch.equal(first, other)
    in_order = next(preset.iter_batches(preset.train, batch_size=8, device=CPU, rng=np.random.default_rng(0)))[0]
    assert not torch.equal(in_order, first)  # without `augment`, as in scoring: the evaluation's images


def test_imagenet_has_224_pixels_by_default(folder: Path) -> None:
    splits = load_splits(DataSpec("image-folder", str(folder), val_size=2, transforms="imagenet"), 0)
    assert splits.train.shape == splits.test.shape == (224, 224, 3)


def test_imagenet_resizes_images_in_memory(folder: Path) -> None:
    splits = load_splits(DataSpec("digits", transforms="imagenet", image_size=20, train_limit=12, val_limit=5), 0)
    assert splits.train.shape == splits.val.shape == (20, 20, 1)
    assert read_training(splits).shape == (12, 1, 20, 20)
    images = [(make_picture(50, 40, number), number % 2) for number in range(20)]
    spec = DataSpec("python:it", val_size=4, transforms="imagenet", image_size=16)
    splits = load_user_splits(UserData(images), Task(), spec, 0)
    assert splits.test.shape == (16, 16, 3) and read_training(splits).shape == (12, 3, 16, 16)


def test_a_user_defined_function_makes_the_transforms(folder: Path) -> None:
    def load(name: str, **changes: Any) -> Splits:
        settings = {"val_size": 2, "image_size": 24, "workers": 0} | changes
        return load_splits(
            DataSpec("image-folder", str(folder), transforms=f"image_sources:{name}", **settings),  # type: ignore[arg-type]
            0,
        )

    pair = load("make_pair")
    assert pair.train.shape == (24, 24, 3) and pair.mean.tolist() == [0, 0, 0]
    images = everything(pair)
    assert images[0].dtype == np.float32 and images[0].max() <= 1
    assert read_training(pair).shape == (6, 3, 24, 24) and not torch.equal(read_training(pair), read_training(pair, 1))
    with pytest.raises(DataError, match="images of shape .70, 90, 3. and uint8, .* expected the same"):
        load("make_training")
    with pytest.raises(ConfigError, match="takes the image size: set data.image_size"):
        load("make_pair", image_size=None)
    alone = load("make_training", image_size=None)
    assert alone.train.shape == (70, 90, 3) and alone.augment == ("transforms",)
    straight = {image.tobytes() for image in everything(alone)[0]}
    x = read_training(alone).permute(0, 2, 3, 1).numpy() * alone.std + alone.mean
    pixels = (x * 255).round().astype(np.uint8)
    unchanged = sum(image.tobytes() in straight for image in pixels)
    assert 0 < unchanged < len(pixels)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifr", "data.transforms 'cifr' is unknown; expected one of none, cifar, imagenet, or module:function"),
        ("image_sources:nothing", "could not be imported: AttributeError"),
        ("no_such_module:it", "could not be imported: ModuleNotFoundError"),
        ("image_sources:make_number", "returned int, expected a transform, or a pair"),
        ("image_sources:fail", "failed: ValueError: no transform"),
        ("os:name", "is a str, expected a function"),
    ],
)
def test_transforms_that_cannot_be_used_are_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_splits(DataSpec("digits", transforms=name), 0)
    assert "\n" not in str(caught.value)


def test_transforms_by_name_need_classes() -> None:
    images = np.zeros((20, 4, 4, 3), dtype=np.uint8)
    data = UserData((images, np.zeros((20, 4, 4), dtype=np.float32)))
    with pytest.raises(DataError, match="data.transforms changes images but not their targets"):
        load_user_splits(data, Task(loss=lambda *_: None), DataSpec("python:it", transforms="cifar"), 0)


def decode_without_draft(file: Path, image_size: int, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    with monkeypatch.context() as patched:
        patched.setattr("PIL.JpegImagePlugin.JpegImageFile.draft", lambda *_: None)
        return decode(file, image_size)


@pytest.mark.parametrize("scale", [1.0, 1.5, 1.99, 2.0, 3.1, 4.0, 9.0])
def test_a_large_jpeg_is_decoded_at_a_part_of_its_size(
    scale: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = round(64 * scale)
    make_picture(side + 20, side).save(tmp_path / "it.jpg", quality=90)
    exact = decode_without_draft(tmp_path / "it.jpg", 56, monkeypatch).astype(int)
    found = decode(tmp_path / "it.jpg", 56).astype(int)
    assert found.shape == exact.shape == (56, 56, 3)
    difference = np.abs(found - exact)
    if scale < 2:
        assert not difference.any()
    else:
        assert difference.mean() < 1 and np.quantile(difference, 0.99) <= 4  # of 255


def test_other_files_are_decoded_at_their_full_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_picture(400, 300).save(tmp_path / "it.png")
    assert np.array_equal(decode(tmp_path / "it.png", 56), decode_without_draft(tmp_path / "it.png", 56, monkeypatch))
    make_picture(400, 300).save(tmp_path / "it.jpg")
    assert open_image(tmp_path / "it.jpg").size == (400, 300) and decode(tmp_path / "it.jpg", None).shape == (
        300,
        400,
        3,
    )
    with pytest.raises(DataError, match="cannot be read as an image"):
        open_image(tmp_path / "nothing.jpg")
