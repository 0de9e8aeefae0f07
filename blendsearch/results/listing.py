"""Listing of all runs in a folder."""

import math
import os
import time
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from blendsearch.errors import BlendsearchError
from blendsearch.results.records import RunListing
from blendsearch.results.status import get_state
from blendsearch.results.summary import get_metric
from blendsearch.runs.latest import read_last_change
from blendsearch.runs.origin import DENSE
from blendsearch.runs.run import Run, is_locked, list_runs, open_run
from blendsearch.runs.run_labels import LABELS_FILE, read_labels

RUN_FILES = ("run.json", "run.sqlite", "run.sqlite-wal", "finished.json", "lock", LABELS_FILE)
"""Files of a run that change with what the list shows of it."""

SETTLED_NS = 2_000_000_000
"""Nanoseconds after which a file with the same size and time is the same; two writes may have the same time."""

RETRY_NS = 30_000_000_000
"""Nanoseconds after which a run that could not be read is read again, as the reason may have been passing."""

DAMAGE = (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError)
"""What reading the facts or rows of a damaged run may raise, besides RunError."""


class Stamp(NamedTuple):
    """Size, time of the last change and number of a file; zeros for one that is missing."""

    size: int
    changed_ns: int
    inode: int


class _Entry(NamedTuple):
    stamps: tuple[Stamp, ...]
    read_ns: int
    row: RunListing


class RunLister:
    """Lists the runs in a folder again and again; reads only those that have changed."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, Lock()
        self._entries: dict[str, _Entry] = {}

    def list_runs(self) -> list[RunListing]:
        """List the runs by id. A run that cannot be read has the reason as its state."""
        with self._lock:
            self._entries = {name: self._refresh(name) for name in list_runs(self._folder)}
            return [entry.row for entry in self._entries.values()]

    def _refresh(self, name: str) -> _Entry:
        now = time.time_ns()  # before the files are read, so that later changes are noticed
        stamps = tuple(read_stamp(self._folder / name / file) for file in RUN_FILES)
        entry = self._entries.get(name)
        if entry is None or entry.stamps != stamps or not _is_settled(entry, now):
            return _Entry(stamps, now, _describe_run(self._folder, name))
        if entry.row.state == "running":  # no file shows that the process has ended
            return entry._replace(row=_refresh_state(self._folder / name, entry.row))
        return entry


def summarize_runs(folder: Path) -> list[RunListing]:
    """List the runs by id. A run that cannot be read has the reason as its state."""
    return RunLister(folder).list_runs()


def read_stamp(path: Path) -> Stamp:
    """Read the stamp of a file."""
    try:
        found = os.stat(path)
    except OSError:
        return Stamp(0, 0, 0)
    return Stamp(found.st_size, found.st_mtime_ns, found.st_ino)


def _is_settled(entry: _Entry, now: int) -> bool:
    """Check if files with the same stamps have the same contents; what was unreadable is tried again."""
    if entry.row.state.startswith("unreadable") and now > entry.read_ns + RETRY_NS:
        return False
    return max(stamp.changed_ns for stamp in entry.stamps) < entry.read_ns - SETTLED_NS


def _refresh_state(path: Path, row: RunListing) -> RunListing:
    return (
        row if is_locked(path) else replace(row, state="finished" if (path / "finished.json").exists() else "stopped")
    )


def _describe_run(folder: Path, name: str) -> RunListing:
    try:
        row = _read_run(open_run(folder, name))
    except BlendsearchError as error:
        row = RunListing(run=name, state=f"unreadable: {error}")
    except DAMAGE as error:
        row = RunListing(run=name, state=f"unreadable: it is damaged ({type(error).__name__})")
    model, data, budget, state = (_make_line(text) for text in (row.model, row.data, row.budget, row.state))
    labels, changed = read_labels(folder / name), read_last_change(folder / name) / 1e9 or None
    row = replace(row, model=model, data=data, budget=budget, state=state)
    return replace(row, tags=labels.tags, archived=labels.archived, changed=changed)


def _make_line(text: str) -> str:
    """Replace what UTF-8 cannot encode, and line ends."""
    return " ".join(text.encode("utf-8", "replace").decode().splitlines())


def _read_run(run: Run) -> RunListing:
    with run.open_store(read_only=True) as store:
        found = store.tally(DENSE)
    metric = get_metric(run)
    accuracy = None if found.least_error is None or not metric.share else 1 - found.least_error
    best = accuracy if metric.share or found.least_loss is None else metric.convert_loss(found.least_loss)
    return RunListing(
        run=run.name,
        model=run.config.model.factory,
        data=run.config.data.dataset,
        budget=_format_budget(run),
        evaluations=found.evaluations,
        asked=run.config.search.evaluations,
        best_val_accuracy=accuracy if accuracy is not None and math.isfinite(accuracy) else None,
        metric=metric,
        best_metric=best if best is not None and math.isfinite(best) else None,
        state=get_state(run),
    )


def _format_budget(run: Run) -> str:
    """Format the budget in few words: ``10% to 50% macs``."""
    if run.config.budget.keep is not None:
        return "widths given"
    return ", ".join(
        f"{low:.0%} {cost}" if low == high else f"{low:.0%} to {high:.0%} {cost}"
        for cost, (low, high) in run.config.budget.get_spans().items()
    )
