"""How a search is going: read from its run directory, which is left as it is."""

import time
from collections.abc import Sequence
from typing import Any

from blendsearch.inspect.summary import tells_error
from blendsearch.runs.directory import Run
from blendsearch.runs.logs import read_logs
from blendsearch.runs.store import Completion, Evaluation
from blendsearch.search.front import DENSE, judged_networks

RECENT = 60
"""Evaluations that the pace is taken from, the last ones."""


def status(run: Run) -> dict[str, Any]:
    """`state` (running, stopped or finished), counts, pace and the best so far, as plain values; None where unknown.

    `per_minute`, `seconds_each` and `utilisation` are of the last evaluations since the search was last started;
    `utilisation` is the seconds that workers spent on them as a share of those they had, in [0, 1]. `retried` are
    attempts that failed, hung, or were lost with their worker, and were made again; `quiet` the seconds since the last
    evaluation came back.
    """
    store = run.store(read_only=True)
    try:
        rows = [row for row in store.evaluations() if row.origin != DENSE]
        generations, finals, tests = store.generations(), len(store.finals()), len(store.tests())
        completions = store.completions()
    finally:
        store.close()
    pace = _pace(run, rows, completions)
    asked = run.config.search.evaluations
    retried = sum(bool(line.get("again")) for line in read_logs(run.path / "logs"))
    state = "running" if run.running else "finished" if run.finished else "stopped"
    left = max(0, asked - len(rows))
    seconds_left = 60 * left / pace["per_minute"] if pace["per_minute"] and state != "finished" else None
    if seconds_left is not None and run.config.search.seconds is not None:
        spent = sum(item["wall"] for item in generations)
        seconds_left = min(seconds_left, max(0.0, run.config.search.seconds - spent))
    best = min(judged_networks(rows), key=lambda row: (row.loss, row.id), default=None)
    return {
        "run": run.name,
        "state": state,
        "evaluations": len(rows),
        "asked": asked,
        "failed": sum(bool(row.failure) for row in rows),
        "generations": len(generations),
        "fine_tuned": finals,
        "tested": tests,
        "schedule": run.config.search.schedule,
        "retried": retried,
        **pace,
        "seconds_left": seconds_left,
        "quiet": time.time() - completions[-1].at if completions else None,
        "best": None
        if best is None or best.loss is None or best.error is None
        else {
            "id": best.id,
            "origin": best.origin,
            "val_loss": best.loss,
            "val_accuracy": 1 - best.error if tells_error(run) else None,
            "macs_ratio": best.macs / run.structure["dense"]["macs"],
        },
    }


def _pace(run: Run, rows: Sequence[Evaluation], completions: Sequence[Completion]) -> dict[str, Any]:
    """How fast evaluations come back, and how busy the workers are, since the search was last started."""
    noted = run.noted_engine()
    workers, started = noted.get("workers"), float(noted.get("started", 0.0))
    seconds = {row.id: row.seconds for row in rows}
    # what a fork took over cost nothing, and says nothing of the pace
    since = [item for item in completions if item.at >= started and seconds.get(item.id, 0.0) > 0]
    recent = since[-RECENT:]
    found: dict[str, Any] = {"workers": workers, "per_minute": None, "seconds_each": None, "utilisation": None}
    if not recent:
        return found
    spent = sum(seconds[item.id] for item in recent)
    found["seconds_each"] = spent / len(recent)
    # from when the one before came back; where there is none, from when the first of these can have begun
    begun = since[-RECENT - 1].at if len(since) > RECENT else recent[0].at - seconds[recent[0].id]
    wall = recent[-1].at - begun
    if wall > 0:
        found["per_minute"] = 60 * len(recent) / wall
        found["utilisation"] = min(1.0, spent / (wall * workers)) if workers else None
    return found
