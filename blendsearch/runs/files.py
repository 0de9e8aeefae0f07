"""Files of run directories: their permissions, and links among them."""

import os
from pathlib import Path

from blendsearch.errors import RunError


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
