"""Logs of the workers, as JSON lines in the run directory: ``logs/worker-N.jsonl``, one file per worker."""

import json
import time
from pathlib import Path
from typing import Any

from blendsearch.runs.files import read_identity
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
    """Read the lines of all workers in the order of time, without lines truncated by a crash.

    With `containing`, only the lines with this text: the others are not parsed.
    """
    found: list[LogLine] = []
    for path in sorted(folder.glob("worker-*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if containing not in line:
                continue
            try:
                found.append(parse_json(line))
            except ValueError:
                continue
    return sorted(found, key=lambda line: float(line["at"]))
