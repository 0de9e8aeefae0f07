"""The run name ``latest``: the run that was searched last."""

from pathlib import Path

from blendsearch.errors import RunError
from blendsearch.runs.run import list_runs

LATEST = "latest"
CHANGING_FILES = ("run.sqlite", "run.sqlite-wal", "run.json", "finished.json")
"""Files that a search writes; reading a run leaves their times as they are."""


def resolve_name(folder: Path, name: str) -> str:
    """Return the id of the run in `folder` that changed last for `LATEST`, unless a run is called so; else `name`."""
    if name != LATEST or (folder / LATEST).exists():
        return name
    names = list_runs(folder)
    if not names:
        raise RunError(f"there is no latest run: {folder} has none")
    return max(names, key=lambda name: (read_last_change(folder / name), name))


def read_last_change(path: Path) -> int:
    """Read the time of the last change in nanoseconds since 1970; 0 where it is unknown."""
    changes = [0]
    for file in CHANGING_FILES:
        try:
            changes.append((path / file).stat().st_mtime_ns)
        except OSError:
            continue
    return max(changes)
