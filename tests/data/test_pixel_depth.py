"""Image files of more or fewer than 8 bits per channel, and files that an image folder does not read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import Dataset

from blendsearch.data.pixel_depth import convert_pixels
from blendsearch.data.split import FolderSplit, decode
from blendsearch.data.splits import DataSpec, load_splits
from blendsearch.data.user_data import read_split
from blendsearch.errors import DataError

WIDE = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)
FLAT = np.full((8, 8), 200, dtype=np.uint8)


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


@pytest.mark.parametrize("ending", ["png", "tiff", "pgm"])
@pytest.mark.parametrize("size", [None, 8])
def test_grey_images_of_16_bits_are_scaled(tmp_path: Path, ending: str, size: int | None) -> None:
    pixels = np.full((8, 8), 25700, dtype=np.uint16)
    image = Image.fromarray(pixels) if ending != "pgm" else Image.fromarray(pixels.astype(np.int32))
    assert (decode(save(tmp_path / f"a.{ending}", image), size) == 100).all()
    if ending != "pgm":
        found = decode(save(tmp_path / f"b.{ending}", Image.fromarray(WIDE)), None)[..., 0]
        assert np.array_equal(found, np.round(WIDE / 257))


def test_big_endian_and_12_bit_pixels_are_scaled() -> None:
    big = Image.frombytes("I;16B", (8, 8), WIDE.astype(">u2").tobytes())
    assert np.array_equal(np.asarray(convert_pixels(big)), np.round(WIDE / 257))
    narrow = Image.fromarray((WIDE // 16).astype(np.uint16))
    narrow.tag_v2 = {258: (12,)}  # type: ignore[attr-defined]
    assert np.asarray(convert_pixels(narrow)).max() == 255


def test_float_images_from_0_to_1_are_scaled_and_others_are_refused(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    assert np.array_equal(decode(save(tmp_path / "a.tiff", Image.fromarray(ramp)), None)[..., 0], np.round(ramp * 255))
    for values in (ramp * 255, ramp - 1, np.full_like(ramp, np.nan)):
        with pytest.raises(DataError, match="b.tiff: .*float pixels .mode F. from .* expected 0 to 1"):
            decode(save(tmp_path / "b.tiff", Image.fromarray(values)), None)


def test_pixels_of_32_bits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a.tiff: .*32-bit pixels .mode I.*save it with 8 or 16 bits"):
        decode(save(tmp_path / "a.tiff", Image.fromarray(WIDE.astype(np.int32))), None)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_images_of_8_bits_and_fewer_keep_their_values(mode: str, tmp_path: Path) -> None:
    grey = Image.fromarray(np.where(np.arange(64).reshape(8, 8) % 2, 255, 0).astype(np.uint8))
    image = grey.convert("RGB").convert(mode)
    expected = np.asarray(image.convert("RGB"))
    ending = "tiff" if mode in ("CMYK", "YCbCr") else "png"
    assert np.abs(decode(save(tmp_path / f"a.{ending}", image), None).astype(int) - expected).max() <= 1
    converted = np.asarray(convert_pixels(image))
    assert converted.dtype == np.uint8 and (converted if converted.ndim == 2 else converted[..., 0]).max() == 255


class Pictures(Dataset[Any]):
    def __init__(self, image: Image.Image) -> None:
        self.image = image

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.image, index % 2


def test_pictures_of_a_user_defined_data_set_are_converted_alike() -> None:
    found = read_split(Pictures(Image.fromarray(WIDE)), "train", 0)
    assert np.array_equal(found.load_images(np.array([1]))[0, ..., 0], np.round(WIDE / 257))
    assert read_split(Pictures(Image.fromarray(FLAT).convert("LA")), "train", 0).shape == (8, 8, 1)


def make_folder(root: Path) -> DataSpec:
    for split in ("train", "test"):
        for label in "ab":
            for number in range(6):
                name = (
                    "more/deep/" if label == "a" and number > 2 else ""
                ) + f"{number}.{'GIF' if number % 2 else 'png'}"
                save(root / split / label / name, Image.fromarray(FLAT))
    return DataSpec("image-folder", root=str(root), val_size=4)


def test_images_in_sub_folders_and_of_all_endings_are_read(tmp_path: Path) -> None:
    splits = load_splits(make_folder(tmp_path), 0)
    assert len(splits.train) + len(splits.val) == 12 and len(splits.test) == 12
    assert np.bincount(splits.test.labels).tolist() == [6, 6] and splits.warnings == ()
    source = splits.train
    source = getattr(source, "split", source)
    assert isinstance(source, FolderSplit)
    names = [str(file.relative_to(tmp_path / "train")) for file in source.files]
    assert names == sorted(names) and "a/more/deep/3.GIF" in names


def test_files_that_are_not_read_are_counted(tmp_path: Path) -> None:
    spec = make_folder(tmp_path)
    for name in ("train/a/x.heic", "train/a/more/y.HEIC", "test/b/notes.txt", "train/readme", "train/a/.hidden.jpg"):
        (tmp_path / name).write_text("x")
    (tmp_path / "train/a/.cache").mkdir()
    (tmp_path / "train/a/.cache/a.png").write_text("x")
    (tmp_path / "train/a/more/up").symlink_to(tmp_path / "train/a")
    expected = "4 files are not read as images, by their endings or places: 2 with .heic, 1 with .txt, 1 with no ending"
    found = load_splits(spec, 0)
    assert sorted(found.warnings[0].split(": ")[1].split(", ")) == sorted(expected.split(": ")[1].split(", "))
    assert len(found.train) + len(found.val) == 12
