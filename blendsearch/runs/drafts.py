"""Drafts: files and folders that are written under a temporary name and then renamed to their target.

The process that writes a draft holds a lock on it, so that a later one can tell a draft in use from one whose writer
was killed. The lock ends with the process, however it ends, and reaches across containers.
"""

import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def open_draft_folder(target: Path) -> Iterator[Path]:
    """Open a folder that becomes `target`, new or empty, at the end; after a failure nothing is left of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned_drafts(target)
    draft, lock = _make_locked_draft(target, is_folder=True)
    try:
        yield draft
        os.rename(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        os.close(lock)


@contextmanager
def open_draft_file(target: Path) -> Iterator[Path]:
    """Open an empty file that replaces `target` at the end; after a failure `target` is unchanged."""
    remove_abandoned_drafts(target)
    draft, lock = _make_locked_draft(target, is_folder=False)
    try:
        yield draft
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
        os.close(lock)


def remove_abandoned_drafts(target: Path) -> None:
    """Remove the drafts of `target` whose writers have ended; one whose lock cannot be taken stays."""
    for draft in target.parent.glob(f".{glob.escape(target.name)}.draft-*"):
        with suppress(OSError), _lock(draft):
            shutil.rmtree(draft) if draft.is_dir() else draft.unlink()


def _make_locked_draft(target: Path, *, is_folder: bool) -> tuple[Path, int]:
    """Make a draft of `target`; return its path and the descriptor that holds its lock."""
    while True:
        draft = target.with_name(f".{target.name}.draft-{secrets.token_hex(4)}")
        draft.mkdir() if is_folder else draft.touch(exist_ok=False)
        try:
            descriptor = os.open(draft, os.O_RDONLY)
        except FileNotFoundError:
            continue  # another process removed it before it was locked
        with suppress(OSError):  # some network file systems lock nothing: then no draft is ever removed
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if draft.exists():
            return draft, descriptor
        os.close(descriptor)


@contextmanager
def _lock(draft: Path) -> Iterator[None]:
    """Lock `draft`. Raises OSError where it is in use, gone, a link, or on a file system without locks."""
    descriptor = os.open(draft, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
