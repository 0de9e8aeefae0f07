"""Checkpoints with arrays, for methods that train a network before the search: JSON state and a safetensors file."""

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypedDict

from numpy.typing import NDArray

from blendsearch.errors import RunError
from blendsearch.runs.checkpoint import load_checkpoint, refuse_unfit_state, save_checkpoint
from blendsearch.runs.decoding import check_type
from blendsearch.runs.files import open_regular, remove_file, suggest_remedy
from blendsearch.runs.run import read_arrays, save_arrays

ARRAYS_NAME = re.compile(r"arrays-[0-9]{5,}\.safetensors")


class _ArrayCheckpoint(TypedDict):
    arrays: str
    sha256: str
    state: dict[str, Any]


def save_array_checkpoint(
    folder: Path, number: int, state: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Write checkpoint `number` atomically, and remove all but the last few.

    Raises RunError when it cannot be written; earlier checkpoints stay intact.
    """
    path = folder / f"arrays-{number:05d}.safetensors"
    draft = path.with_suffix(".draft")
    try:
        folder.mkdir(exist_ok=True)
        save_arrays(arrays, draft)
        with open(draft, "rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.replace(draft, path)
    except OSError as error:
        remove_file(draft)
        raise RunError(f"{path} could not be written ({error.strerror}): {suggest_remedy(error)}") from error
    save_checkpoint(folder, number, {"arrays": path.name, "sha256": digest, "state": dict(state)})
    kept = {f"arrays{item.stem.removeprefix('generation')}" for item in folder.glob("generation-*.json")}
    for old in folder.glob("arrays-*.safetensors"):
        if old.stem not in kept:
            remove_file(old)


def load_array_checkpoint(
    folder: Path, report: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
    """Load state and arrays of the newest checkpoint, None if there is none. Raises RunError if they are damaged."""
    found = load_checkpoint(folder, report)
    if found is None:
        return None
    with refuse_unfit_state(folder):
        check_type(found, _ArrayCheckpoint)
        if not ARRAYS_NAME.fullmatch(found["arrays"]):
            raise ValueError(f"arrays cannot be {found['arrays']!r}")
    path = folder / found["arrays"]
    try:
        with open_regular(path) as file:
            whole = hashlib.file_digest(file, "sha256").hexdigest() == found["sha256"]
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}): restore it from a backup") from error
    if not whole:
        raise RunError(f"{path} is damaged: restore it from a backup, or remove {folder} to repeat this part")
    return found["state"], read_arrays(path)
