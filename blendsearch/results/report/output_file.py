"""Files for pictures and pages: checked before the work, and written completely or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blendsearch.errors import RunError
from blendsearch.runs.drafts import open_draft_file

FORMATS = (".png", ".svg", ".pdf")


def check_output_path(path: Path, kind: str = "picture", formats: tuple[str, ...] = FORMATS) -> None:
    """Raise RunError unless a picture (or another `kind`) can be written to `path`, in the format of its suffix."""
    if path.suffix.lower() not in formats:
        raise RunError(f"a {kind} cannot be written as {path}: expected a file that ends in {', '.join(formats)}")
    folder = path.parent
    if not folder.is_dir():
        raise RunError(f"the {kind} {path} cannot be written: {folder} is not a folder; make it first")
    if path.is_dir():
        raise RunError(f"the {kind} {path} cannot be written: a folder has that name; choose another")
    if path.exists() and not path.is_file():
        raise RunError(f"the {kind} {path} cannot be written: it is a pipe or a device; choose another")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RunError(f"the {kind} {path} cannot be written: no permission to write to {folder}")


@contextmanager
def open_draft(path: Path, kind: str = "picture") -> Iterator[Path]:
    """Open a file that becomes `path` at the end; after a failure `path` is unchanged. Raises RunError."""
    try:
        with open_draft_file(path) as draft:
            yield draft
    except OSError as error:
        raise RunError(f"the {kind} {path} could not be written: {error.strerror or error}") from error
