"""Deletion of run directories."""

import os
import secrets
import shutil
from pathlib import Path

from blendsearch.errors import RunError
from blendsearch.runs.files import suggest_remedy
from blendsearch.runs.run import NAME, is_locked, list_runs


def find_run(folder: Path, name: str) -> Path:
    """Find the directory of run `name`, which need not be readable. Raises RunError where there is none."""
    if not NAME.fullmatch(name) or name not in list_runs(folder):
        known = ", ".join(list_runs(folder)[:8]) or "none"
        raise RunError(f"no run {name!r} in {folder}: runs there are {known}; is --runs right?")
    return folder / name


def check_deletable(path: Path) -> None:
    """Raise RunError for a run that a process is searching, or that is a link."""
    if path.is_symlink():
        raise RunError(f"{path} is a link: delete what it points to, or the link, by hand")
    if is_locked(path):
        raise RunError(f"run {path.name!r} is being searched by another process: wait for it, or stop it")


def delete_run(path: Path) -> None:
    """Delete a run directory. It is renamed first, so that an interruption leaves no half of a run under its name."""
    check_deletable(path)
    hidden = path.with_name(f".deleted-{path.name}-{secrets.token_hex(4)}")
    try:
        os.replace(path, hidden)
        shutil.rmtree(hidden)
    except OSError as error:
        raise RunError(f"{path} could not be deleted ({error.strerror or error}): {suggest_remedy(error)}") from error
