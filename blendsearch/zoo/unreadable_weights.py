"""Causes for which a file of weights cannot be read without running code from it."""

from __future__ import annotations

import pickletools
import re
import zipfile
from pathlib import Path

from blendsearch.errors import format_reason

GLOBAL = re.compile(r"GLOBAL ([\w.]+)")

STARTS = {
    b"version https://git-lfs": "are a pointer of Git LFS: get the file itself (git lfs pull)",
    b"\x89HDF": "are an HDF5 file, which is not read: convert them to safetensors",
    b"\x93NUMPY": "are a NumPy array, not a state dict: convert them to safetensors",
    b"<": "are a web page or XML: download the file itself",
    b"{": "are JSON, which holds no tensors: name the file that does, best as safetensors",
}
"""Causes by the first bytes of a file."""

ZIP_START = b"PK\x03\x04"

RESAVE = "in the code that wrote it, save the state dict alone: torch.save(model.state_dict(), path)"


def describe_unreadable(path: Path, error: BaseException) -> str:
    """Describe in one clause, after the file's name, why ``torch.load`` raised `error` for `path`, and the remedy."""
    if described := _describe_format(path):
        return described
    found = GLOBAL.search(str(error))
    if found is None:
        reason = format_reason(error)
        cause = "no checkpoint of torch" if "weights_only" in reason or len(reason) < 4 else reason[:200]
        return f"cannot be read as plain tensors ({cause}): save a state dict, best as safetensors"
    root = _read_root_class(path)
    if root is not None and not root.startswith(("torch._utils.", "collections.")):
        return f"hold a whole pickled {root.rpartition('.')[2]} ({root}), and unpickling it would run code: {RESAVE}"
    return f"hold an object of {found[1]} beside the tensors, and unpickling it would run code: {RESAVE}"


def is_safetensors(path: Path) -> bool:
    """Return True for a file that begins as a safetensors file does, whatever its name."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and 8 + int.from_bytes(start[:8], "little") <= path.stat().st_size


def _describe_format(path: Path) -> str:
    """Describe a file of another format, or a part of one; empty for others."""
    with path.open("rb") as file:
        start = file.read(32)
    if not start:
        return "are an empty file: write or copy it again"
    if known := next((STARTS[item] for item in STARTS if start.startswith(item)), ""):
        return known
    if not zipfile.is_zipfile(path):
        return "are not complete: write or copy them again" if start.startswith(ZIP_START) else ""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        return f"are a TorchScript archive, whose layers cannot be cut: {RESAVE}"
    if all(name.endswith(".npy") for name in names):
        return "are NumPy arrays, which are not read: convert them to safetensors"
    return ""


def _read_root_class(path: Path) -> str | None:
    """Return the class of the object in a file that ``torch.save`` wrote; None for a dict, and where it is unknown.

    The names of pickle operations are read, none is run.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            with archive.open(name) as file:
                for operation, argument, _ in pickletools.genops(file):
                    if operation.name == "GLOBAL":
                        return str(argument).replace(" ", ".")
                    if operation.name not in ("PROTO", "FRAME"):
                        return None
    except (StopIteration, ValueError, OSError, zipfile.BadZipFile):
        return None
    return None
