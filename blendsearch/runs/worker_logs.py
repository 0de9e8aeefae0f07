"""What every worker did, as JSON lines in the run directory: ``logs/worker-N.jsonl``, one file for each worker."""

import json
import time
from pathlib import Path
from typing import Any


class WorkerLogs:
    """Appends lines to the files in `folder`. A log that cannot be written ends no search.

    A line says `at` (seconds since 1970), `worker`, `event`, and the event's facts:
    ``started`` (node, process); ``evaluated`` (digest, fidelity, split, seed, seconds, loss, error, failure, and as
    `messages` what was warned of meanwhile); ``failed`` (reason, trace, whether it is tried `again`), ``killed`` (out
    of time) and ``lost`` (with its worker or node).
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, worker: int, event: str, **facts: Any) -> None:
        line = json.dumps({"at": round(time.time(), 3), "worker": worker, "event": event, **facts})
        try:
            self._folder.mkdir(exist_ok=True)
            with open(self._folder / f"worker-{worker}.jsonl", "a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError:
            return


def read_logs(folder: Path) -> list[dict[str, Any]]:
    """All lines of all workers in the order of time; a line that a crash cut short is left out."""
    found = []
    for path in sorted(folder.glob("worker-*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return sorted(found, key=lambda item: float(item["at"]))
