"""Files of run directories: their permissions, links among them, and files that others move or delete."""

import errno
import os
import time
from pathlib import Path

from blendsearch.errors import RunError

BASE_FOLDER = ".training"
"""Folder beside the runs with the state of base trainings whose run was not made yet."""


def apply_umask(path: Path) -> None:
    """Give the file at `path` the permissions of this process's umask; safetensors writes files for the owner alone."""
    umask = os.umask(0o022)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def refuse_links(folder: Path, name: str) -> None:
    """Raise RunError where a file or folder below the run directory `folder` is a symbolic link.

    Writing through it would change files outside the run. The run directory itself may be a link.
    """
    for place, folders, files in os.walk(folder):
        for item in (*folders, *files):
            path = Path(place, item)
            if path.is_symlink():
                raise RunError(
                    f"{path.relative_to(folder)} in run {name!r} is a symbolic link: links inside a run are not "
                    "followed for writing; replace it by what it points to"
                )


def read_identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of the file or folder at `path`; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def check_in_place(path: Path, identity: tuple[int, int] | None) -> None:
    """Raise RunError where the open file at `path` has been deleted, moved or replaced since `read_identity`."""
    now = read_identity(path)
    if now == identity:
        return
    if now is None:
        _wait_for_deletion(path.parent)
    if path.parent.is_dir():
        event = "deleted or moved" if now is None else "replaced by another file"
        remedy = "move it back, with its -wal file, and resume"
    else:
        path, event = path.parent, "deleted or moved"
        remedy = "if it was moved, resume it where it is now"
    raise RunError(f"{path} was {event} while it was in use: nothing more is written; {remedy}")


def _wait_for_deletion(folder: Path, seconds: float = 1.0) -> None:
    """Wait while `folder` may still be being deleted: its files go first, one by one, and it is the cause to name."""
    end = time.monotonic() + seconds
    while folder.is_dir() and time.monotonic() < end:
        time.sleep(0.02)


def suggest_remedy(error: OSError) -> str:
    """Suggest what to do where a file of a run could not be written."""
    if error.errno == errno.ENOENT:
        return "its folder was deleted or moved: if it was moved, resume the run where it is now"
    return "free some space and resume the run"
