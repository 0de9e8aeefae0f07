"""The folder of runs where none is named."""

import os
import shlex
from pathlib import Path

VARIABLE = "BLENDSEARCH_RUNS"
"""Environment variable that names the folder."""


def get_default_folder() -> Path:
    """Return the folder that `VARIABLE` names; without it, ``runs`` in the working directory."""
    return Path(os.environ.get(VARIABLE) or "runs")


def format_option(folder: Path) -> str:
    """Format the option that names `folder` in a command, with a space before it; empty for the default folder."""
    return "" if folder.absolute() == get_default_folder().absolute() else f" --runs {shlex.quote(str(folder))}"
