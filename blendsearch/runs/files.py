"""Files of run directories: their permissions, links among them, and files that others move or delete."""

import errno
import os
import re
import stat
import time
from collections.abc import Collection
from contextlib import suppress
from io import BufferedReader
from pathlib import Path

from blendsearch.errors import RunError

BASE_FOLDER = ".training"
"""Folder beside the runs with the state of base trainings whose run was not made yet."""


def apply_umask(path: Path) -> None:
    """Give the file at `path` the permissions of this process's umask; safetensors writes files for the owner alone."""
    umask = os.umask(0o022)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def open_regular(path: Path) -> BufferedReader:
    """Open the regular file at `path` for reading. Raises OSError for others: opening a pipe waits for a writer."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "no regular file", str(path))


def convert_system_error(error: Exception) -> OSError:
    """Return the OSError that safetensors, which raises its own type for all errors, has met."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(errno.EIO, str(error)) if number is None else OSError(int(number[1]), os.strerror(int(number[1])))


def check_encoding(path: Path) -> None:
    """Raise RunError where `path` is not UTF-8: safetensors opens no such file."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise RunError(f"{os.fsencode(path)!r} is not UTF-8: choose a folder whose path is") from error


def remove_file(path: Path) -> None:
    """Remove the file at `path`. What cannot be removed, as a folder of that name, stays."""
    with suppress(OSError):
        path.unlink()


RUN_FOLDERS = ("checkpoints", "controls", "finals", "logs", "training")
"""Folders of a run directory; further ones have names of methods."""


def refuse_links(folder: Path, name: str, folders_of_methods: Collection[str] = ()) -> None:
    """Raise RunError where a file or folder below the run directory `folder` cannot or must not be written to.

    Writing through a link would change files outside the run: through a symbolic link, and through a hard link where a
    file is written in place. A pipe, socket or device would block. The run directory itself may be a link.
    """
    for item in (*RUN_FOLDERS, *folders_of_methods):
        if (folder / item).is_file():
            raise RunError(f"{item} in run {name!r} is a file, where a folder is expected: remove it")
    for place, folders, files in os.walk(folder):
        for item in (*folders, *files):
            path = Path(place, item)
            if reason := _find_danger(path):
                raise RunError(f"{path.relative_to(folder)} in run {name!r} is {reason}")


def _find_danger(path: Path) -> str:
    """Return what `path` is, and what to do, where writing to it would change or block something else; else empty."""
    try:
        state = path.lstat()
    except FileNotFoundError:  # another process just removed it
        return ""
    if stat.S_ISLNK(state.st_mode):
        return "a symbolic link: links inside a run are not followed for writing; replace it by what it points to"
    if not (stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode)):
        return "no regular file but a pipe, socket or device: remove it"
    if stat.S_ISREG(state.st_mode) and state.st_nlink > 1 and _is_written_in_place(path.name):
        return "a hard link to a file that has another name, which writing would change too: replace it by a copy"
    return ""


def _is_written_in_place(name: str) -> bool:
    return name in ("lock", "run.sqlite") or name.startswith("run.sqlite-") or name.endswith((".jsonl", ".draft"))


def check_companions(path: Path) -> None:
    """Raise RunError where a file that SQLite keeps beside the database at `path` is a link or no regular file.

    SQLite writes to them also where a database is only read. The database itself may be a link.
    """
    if path.exists() and not path.is_file():
        raise RunError(f"{path} cannot be opened: it is no regular file; is this a run directory?")
    for ending in ("-wal", "-shm", "-journal"):
        companion = path.with_name(path.name + ending)
        if os.path.lexists(companion) and (
            reason := _find_danger(companion) or (companion.is_dir() and "a folder: remove it")
        ):
            raise RunError(f"{companion} is {reason}")


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
