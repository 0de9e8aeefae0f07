"""Images and labels from NumPy archives, with a one-line error for a file that does not fit."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blendsearch.data.split import MAX_CLASS, Labels, Pixels
from blendsearch.errors import DataError, format_reason
from blendsearch.memory import format_bytes, get_available_bytes


def load_npz(path: Path) -> tuple[Pixels, Labels, int | None]:
    """Load images (N, height, width, channels), labels (N,), and the length of the array `classes` if there is one.

    Nothing is unpickled. Raises DataError for a file that is missing, damaged or of another layout.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected an .npz with arrays x and y; check data.root and the path")
    arrays = _read(path)
    missing = [key for key in ("x", "y") if key not in arrays]
    if missing:
        raise DataError(
            f"{path}: has no array {' nor '.join(missing)}, only {', '.join(sorted(arrays)) or 'nothing'}; expected x"
            " (images) and y (labels); save with np.savez(path, x=..., y=...)"
        )
    _check_images(path, arrays["x"])
    labels = _check_labels(path, arrays["y"])
    if len(arrays["x"]) != len(labels):
        raise DataError(
            f"{path}: x has {len(arrays['x'])} images but y has {len(labels)} labels; expected one label per image;"
            " save both from the same selection"
        )
    return arrays["x"], labels, len(arrays["classes"]) if "classes" in arrays else None


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        # np.load would also accept .npy
        if not zipfile.is_zipfile(path):
            raise DataError(f"{path}: is not an .npz archive; expected one with arrays x and y; save with np.savez")
        _check_memory(path)
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files if key in ("x", "y", "classes")}
            if not all(isinstance(found, np.ndarray) for found in arrays.values()):
                raise ValueError("an entry is no array")
            # other keys are listed, not read, for the message about a missing x
            arrays |= {key: np.empty(0) for key in archive.files if key not in arrays}
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"{path}: does not fit into memory; expected fewer or smaller images") from error
    except Exception as error:  # damaged archives raise a dozen types
        if "allow_pickle" in str(error):
            raise DataError(
                f"{path}: holds Python objects, which are never unpickled; expected plain arrays; save x as uint8, y as"
                " an integer array and classes as an array of strings"
            ) from error
        reason = format_reason(error)
        raise DataError(f"{path}: is damaged ({reason}); expected a complete .npz archive; write it again") from error
    if (classes := arrays.get("classes")) is not None and classes.ndim != 1:
        raise DataError(
            f"{path}: classes has {classes.ndim} dimensions; expected a 1-D array of names; flatten or drop it"
        )
    return arrays


def _check_memory(path: Path) -> None:
    """Raise DataError where the arrays, whose sizes the archive declares, exceed the memory that is available."""
    with zipfile.ZipFile(path) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    # labels become int64
    needed = sizes.get("x.npy", 0) + 8 * sizes.get("y.npy", 0) + sizes.get("classes.npy", 0)
    free = get_available_bytes()
    if free is not None and needed > free:
        raise DataError(
            f"{path}: needs {format_bytes(needed)} of memory once unpacked, and {format_bytes(free)} are available; "
            "expected fewer or smaller images"
        )


def _check_images(path: Path, x: NDArray[Any]) -> None:
    if x.dtype != np.uint8:
        raise DataError(f"{path}: x {_describe_type_error(x)}")
    if x.ndim != 4:
        hint = "add the channel axis: x[..., None]" if x.ndim == 3 else "reshape it"
        raise DataError(
            f"{path}: x has shape {x.shape}; expected 4 dimensions (images, height, width, channels); {hint}"
        )
    if x.size == 0:
        raise DataError(
            f"{path}: x has shape {x.shape}, so no pixels; expected at least one image; check how it was cut"
        )
    if x.shape[3] not in (1, 3):
        if x.shape[1] in (1, 3):
            raise DataError(
                f"{path}: x has shape {x.shape}, channels first; expected channels last; transpose with"
                " x.transpose(0, 2, 3, 1)"
            )
        raise DataError(
            f"{path}: x has {x.shape[3]} channels (shape {x.shape}); expected 1 or 3, last; convert the images"
        )


def _describe_type_error(x: NDArray[Any]) -> str:
    if not np.issubdtype(x.dtype, np.floating):
        hint = "x.astype(np.uint8)" if x.size and np.issubdtype(x.dtype, np.integer) and _is_within(x, 0, 255) else None
        return f"is {x.dtype}; expected uint8 in 0..255; " + (
            f"convert with {hint}" if hint else "scale and convert it"
        )
    if bad := int(x.size - np.isfinite(x).sum()):
        return f"is {x.dtype} and holds {bad} NaN or infinite values; expected uint8; fix the values, then convert"
    if _is_within(x, 0, 1):
        hint = "convert with (x * 255).round().astype(np.uint8)"
    elif _is_within(x, 0, 255):
        hint = "convert with x.round().astype(np.uint8)"
    else:
        hint = "undo its normalisation, scale to 0..255, then x.round().astype(np.uint8)"
    return f"is {x.dtype}; expected uint8 in 0..255; {hint}"


def _is_within(x: NDArray[Any], low: int, high: int) -> bool:
    return x.size == 0 or bool(x.min() >= low and x.max() <= high)


def _check_labels(path: Path, y: NDArray[Any]) -> Labels:
    if y.ndim != 1:
        if y.ndim == 2 and y.shape[1] > 1:
            wrong, hint = "looks one-hot", "y.argmax(axis=1)"
        else:
            wrong, hint = "is not 1-D", "y.ravel()"
        raise DataError(f"{path}: y has shape {y.shape} and {wrong}; expected (images,); convert with {hint}")
    if not np.issubdtype(y.dtype, np.integer):
        raise DataError(
            f"{path}: y is {y.dtype}; expected integer class numbers from 0; convert with y.astype(np.int64)"
        )
    if len(y) and y.min() < 0:
        row = int(np.argmax(y < 0))
        raise DataError(f"{path}: y[{row}] is {y[row]}; expected class numbers from 0; renumber or drop such images")
    if len(y) and y.max() > MAX_CLASS:
        raise DataError(
            f"{path}: y reaches {y.max()}; expected class numbers from 0 to at most {MAX_CLASS:,}; renumber them"
        )
    return y.astype(np.int64)
