"""How a search is going: read from its run directory, which is left as it is."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from blendsearch.results.summary import has_accuracy
from blendsearch.runs.origin import DENSE
from blendsearch.runs.pareto import select_evaluated
from blendsearch.runs.records import Completion
from blendsearch.runs.run import Run
from blendsearch.runs.worker_logs import read_logs

PACE_WINDOW = 60
"""Evaluations that the pace is taken from, the last ones."""


def read_status(run: Run) -> dict[str, Any]:
    """`state` (running, stopped or finished), counts, pace and the best so far, as plain values; None where unknown.

    `per_minute`, `seconds_each` and `utilisation` are of the last evaluations since the search was last started;
    `utilisation` is the seconds that workers spent on them as a share of those they had, in [0, 1]. `retried` are
    attempts that failed, hung, or were lost with their worker, and were made again; `quiet` the seconds since the last
    evaluation came back.
    """
    with run.open_store(read_only=True) as store:
        rows = [row for row in store.read_evaluations() if row.origin != DENSE]
        generations, finals, tests = store.read_generations(), len(store.read_finals()), len(store.read_tests())
        completions = store.read_completions()
    retried = sum(bool(line.get("again")) for line in read_logs(run.path / "logs"))
    best = min(select_evaluated(rows), key=lambda row: (row.loss, row.id), default=None)
    return {
        "run": run.name,
        "state": get_state(run),
        "evaluations": len(rows),
        "asked": run.config.search.evaluations,
        "failed": sum(bool(row.failure) for row in rows),
        "generations": len(generations),
        "fine_tuned": finals,
        "tested": tests,
        "schedule": run.config.search.schedule,
        "retried": retried,
        **estimate_pace(run, {row.id: row.seconds for row in rows}, completions, generations),
        "quiet": time.time() - completions[-1].at if completions else None,
        "best": None
        if best is None or best.loss is None or best.error is None
        else {
            "id": best.id,
            "origin": best.origin,
            "val_loss": best.loss,
            "val_accuracy": 1 - best.error if has_accuracy(run) else None,
            "macs_ratio": best.macs / run.structure["dense"]["macs"],
        },
    }


def get_state(run: Run) -> str:
    """``running``, ``finished`` or ``stopped``."""
    return "running" if run.running else "finished" if run.finished else "stopped"


def estimate_pace(
    run: Run, seconds: Mapping[int, float], completions: Sequence[Completion], generations: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The part of `status` that is about speed; `seconds` of every pruned network by id, and at least the last
    `completions`.
    """
    found = _measure_speed(run, seconds, completions)
    left = max(0, run.config.search.evaluations - len(seconds))
    found["seconds_left"] = 60 * left / found["per_minute"] if found["per_minute"] and not run.finished else None
    if found["seconds_left"] is not None and run.config.search.seconds is not None:
        spent = sum(item["wall"] for item in generations)
        found["seconds_left"] = min(found["seconds_left"], max(0.0, run.config.search.seconds - spent))
    return found


def _measure_speed(run: Run, seconds: Mapping[int, float], completions: Sequence[Completion]) -> dict[str, Any]:
    """How fast evaluations come back, and how busy the workers are, since the search was last started."""
    noted = run.read_engine_facts()
    workers, started = noted.get("workers"), float(noted.get("started", 0.0))
    # what a fork took over cost nothing, and says nothing of the pace
    since = [item for item in completions if item.at >= started and seconds.get(item.id, 0.0) > 0]
    recent = since[-PACE_WINDOW:]
    found: dict[str, Any] = {"workers": workers, "per_minute": None, "seconds_each": None, "utilisation": None}
    if not recent:
        return found
    spent = sum(seconds[item.id] for item in recent)
    found["seconds_each"] = spent / len(recent)
    # from when the one before came back; where there is none, from when the first of these can have begun
    begun = since[-PACE_WINDOW - 1].at if len(since) > PACE_WINDOW else recent[0].at - seconds[recent[0].id]
    wall = recent[-1].at - begun
    if wall > 0:
        found["per_minute"] = 60 * len(recent) / wall
        found["utilisation"] = min(1.0, spent / (wall * workers)) if workers else None
    return found
