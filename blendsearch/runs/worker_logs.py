"""Logs of the workers, as JSON lines in the run directory: ``logs/worker-N.jsonl``, one file per worker."""

import json
import math
import time
import warnings
from pathlib import Path
from typing import Any

from blendsearch.runs.files import open_regular, read_identity
from blendsearch.runs.parsing import parse_json
from blendsearch.runs.run_facts import LogLine


class WorkerLogs:
    """Writer of log lines to the files in `folder`. A log that cannot be written does not end the search.

    A line holds `at` (seconds since 1970), `worker`, `event`, and the facts of the event:
    ``started`` (node, process); ``evaluated`` (digest, fidelity, split, seed, seconds, loss, error, failure, and
    warnings as `messages`); ``failed`` (reason, trace, and `again` if it is retried), ``killed`` (time limit exceeded)
    and ``lost`` (with its worker or node).
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._run = read_identity(folder.parent)

    def write(self, worker: int, event: str, **facts: Any) -> None:
        """Append one line to the log of `worker`."""
        line = json.dumps({"at": round(time.time(), 3), "worker": worker, "event": event, **facts})
        if read_identity(self._folder.parent) != self._run:
            return  # the run directory was moved: what is at its old place now is another's
        try:
            self._folder.mkdir(exist_ok=True)
            with open(self._folder / f"worker-{worker}.jsonl", "a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError:
            return


def read_logs(folder: Path, containing: str = "") -> list[LogLine]:
    """Read the lines of all workers in the order of time, without a last line truncated by a crash.

    Warns of other lines, and of files, that cannot be read. With `containing`, only lines with this text are parsed.
    """
    found: list[LogLine] = []
    for path in sorted(folder.glob("worker-*.jsonl")):
        try:
            with open_regular(path) as file:
                lines = file.read().decode("utf-8", errors="replace").split("\n")
        except OSError as error:
            warnings.warn(f"{path} cannot be read ({error.strerror}) and is skipped", stacklevel=2)
            continue
        chosen = [line for line in lines[:-1] if containing in line] + lines[-1:]
        parsed = [_parse_line(line) for line in chosen]
        known = [line for line in parsed if line is not None]
        wrong = sum(line is None and bool(text) for line, text in zip(parsed[:-1], chosen[:-1], strict=True))
        if wrong or not (known or containing):
            warnings.warn(
                f"{path} is damaged: {wrong or 'all'} of its lines cannot be read and are skipped", stacklevel=2
            )
        found += known
    return sorted(found, key=lambda line: line["at"])


def _parse_line(text: str) -> LogLine | None:
    """Parse a line; None where it is no event with a time. Losses may be NaN."""
    try:
        line = parse_json(text)
        known = isinstance(line, dict) and type(line["at"]) in (int, float) and math.isfinite(line["at"])
        known = known and isinstance(line["event"], str) and isinstance(line.get("again", False), bool)
    except (ValueError, KeyError, OverflowError):
        return None
    return LogLine(**line) if known else None  # type: ignore[typeddict-item]
