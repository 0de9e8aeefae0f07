"""Causes for which a file of weights cannot be read without running code from it."""

from __future__ import annotations

import pickletools
import re
import zipfile
from pathlib import Path

GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")

LFS_START = b"version https://git-lfs"

RESAVE = "in the code that wrote it, save the state dict alone: torch.save(model.state_dict(), path)"


def describe_unreadable(path: Path, error: BaseException) -> str:
    """Describe in one clause, after the file's name, why ``torch.load`` raised `error` for `path`, and the remedy."""
    with path.open("rb") as file:
        if file.read(len(LFS_START)) == LFS_START:
            return "are a pointer of Git LFS: get the file itself (git lfs pull)"
    if _is_torchscript(path):
        return f"are a TorchScript archive, whose layers cannot be cut: {RESAVE}"
    found = GLOBAL.search(str(error))
    if found is None:
        reason = ESCAPES.sub("", str(error).split("\n")[0]) or type(error).__name__
        return f"cannot be read as plain tensors: {reason[:200]}; save a state dict, best as safetensors"
    root = _read_root_class(path)
    if root is not None and not root.startswith(("torch._utils.", "collections.")):
        return f"hold a whole pickled {root.rpartition('.')[2]} ({root}), and unpickling it would run code: {RESAVE}"
    return f"hold an object of {found[1]} beside the tensors, and unpickling it would run code: {RESAVE}"


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


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
