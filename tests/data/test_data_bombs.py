"""Archives and images that would fill the memory, wait for ever, or run code: one line that names the file."""

import io
import os
import struct
import subprocess
import zipfile
import zlib
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from numpy.lib import format as npy
from PIL import Image

from blendsearch.data import npz, split
from blendsearch.data.npz import load_npz
from blendsearch.data.split import MAX_PIXELS, decode
from blendsearch.errors import DataError

X = np.zeros((12, 8, 8, 1), dtype=np.uint8)
Y = np.arange(12) % 3


def make_header(shape: object, descr: str = "|u1") -> bytes:
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text + b"\n"


def write_npz(path: Path, kind: int = zipfile.ZIP_DEFLATED, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def dump(array: Any) -> bytes:
    file = io.BytesIO()
    npy.write_array(file, array)
    return file.getvalue()


def refuse_npz(path: Path, message: str) -> None:
    with pytest.raises(DataError, match=message) as raised:
        load_npz(path)
    assert str(raised.value).startswith(f"{path}: ") and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "header",
    [
        make_header((10**12, 8, 8, 1)),
        make_header((2**32, 2**32, 1, 1)),
        make_header((2**62, 8, 8, 1)),
        make_header((10**30, 8, 8, 1)),
        make_header((-5, 8, 8, 1)),
        make_header((12, 8, 8, 1), "|V2000000000"),
        make_header((12, 8, 8, 1), "|O"),
        make_header((12.5, 8)),
        make_header("(" * 3000),
        make_header("-" * 9000 + "1"),
        make_header("__import__('os').getcwd()"),
        b"\x93NUMPY\x09\x00",
        b"",
    ],
)
def test_headers_that_lie_are_refused(header: bytes, tmp_path: Path) -> None:
    refuse_npz(write_npz(tmp_path / "bad.npz", x=header + bytes(768), y=dump(Y)), "is damaged|never unpickled|memory")


def test_an_archive_that_exceeds_the_memory_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.zeros((2000, 64, 64, 3), dtype=np.uint8)
    path = write_npz(tmp_path / "bomb.npz", x=dump(images), y=dump(np.zeros(2000, dtype=np.int64)))
    assert path.stat().st_size < images.nbytes / 900
    assert len(load_npz(path)[0]) == 2000  # uniform images are compressed as well
    monkeypatch.setattr(npz, "get_available_bytes", lambda: 20_000_000)

    def refuse(*_: object) -> NoReturn:
        raise AssertionError

    monkeypatch.setattr(np, "load", refuse)
    refuse_npz(path, "needs 23.6 MiB of memory once unpacked, and 19.1 MiB are available")


def test_a_declared_size_beyond_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "get_available_bytes", lambda: 2**31)
    path = write_npz(tmp_path / "bomb.npz", x=dump(X), y=dump(Y))
    content = path.read_bytes()
    at = content.index(b"PK\x01\x02") + 24  # the unpacked size of the first entry, in the directory
    path.write_bytes(content[:at] + struct.pack("<I", 2**32 - 2) + content[at + 4 :])
    refuse_npz(path, "needs 4.0 GiB of memory once unpacked")


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_of_any_compression_is_named(kind: int, tmp_path: Path) -> None:
    path = write_npz(tmp_path / "bad.npz", kind, x=dump(X), y=dump(Y))
    content = bytearray(path.read_bytes())
    for at in range(50, 90):
        content[at] ^= 0xFF
    path.write_bytes(bytes(content))
    refuse_npz(path, "is damaged")


def test_an_encrypted_archive_is_named(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "secret.npz", x=dump(X), y=dump(Y))
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.index(mark)
        content[at + offset] |= 1
    path.write_bytes(bytes(content))
    refuse_npz(path, "is damaged.*encrypted")


def refuse_image(path: Path, message: str, size: int | None = 32) -> None:
    with pytest.raises(DataError, match=message) as raised:
        decode(path, size)
    assert str(raised.value).startswith(f"{path}: ") and "\n" not in str(raised.value)


def write_png(path: Path, width: int, height: int, data: bytes) -> Path:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (12_000, 8_000), (9_000, 8_000), (2**31 - 1, 1)])
def test_images_of_too_many_pixels_are_not_decoded(
    width: int, height: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AssertionError

    monkeypatch.setattr(Image.Image, "convert", refuse)
    refuse_image(write_png(tmp_path / "bomb.png", width, height, b""), "pixels")
    Image.new("P", (4, 4)).save(tmp_path / "bomb.gif")
    content = (tmp_path / "bomb.gif").read_bytes()
    (tmp_path / "bomb.gif").write_bytes(content[:6] + struct.pack("<HH", 60_000, 60_000) + content[10:])
    refuse_image(tmp_path / "bomb.gif", "pixels")


def test_a_narrow_image_is_not_made_huge(tmp_path: Path) -> None:
    """The shorter side is resized: a line of a million pixels would become 36 million times 36."""
    path = write_png(tmp_path / "line.png", 2_000_000, 1, zlib.compress(bytes(2_000_001)))
    refuse_image(path, "too narrow")
    assert decode(path, None).shape == (1, 2_000_000, 3)


def test_the_largest_image_is_decoded(tmp_path: Path) -> None:
    side = 2**13
    assert side * side == MAX_PIXELS
    path = write_png(tmp_path / "large.png", side, side, zlib.compress(bytes(side * (side + 1))))
    assert decode(path, 32).shape == (32, 32, 3)


def test_damaged_images_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for kind in split.IMAGE_FORMATS:
        path = tmp_path / f"whole.{kind}"
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(path, kind)
        whole = path.read_bytes()
        assert decode(path, None).shape == (16, 16, 3)
        for end in (0, 10, len(whole) // 2):
            path.write_bytes(whole[:end])
            refuse_image(path, "cannot be read as an image")
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait
    refuse_image(tmp_path / "pipe.png", "no regular file")


def test_no_program_is_run_for_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow runs Ghostscript for EPS, whatever the file is called."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError

    for name in ("Popen", "run", "call", "check_call", "check_output"):
        monkeypatch.setattr(subprocess, name, refuse)
    text = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n"
    (tmp_path / "image.png").write_text(text)
    refuse_image(tmp_path / "image.png", "cannot identify")
