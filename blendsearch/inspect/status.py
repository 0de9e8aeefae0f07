"""How a search is going: read from its run directory, which is left as it is."""

from collections.abc import Mapping, Sequence
from typing import Any

from blendsearch.runs.directory import Run
from blendsearch.search.front import DENSE, judged_networks

RECENT = 5
"""Generations that the pace is taken from."""


def status(run: Run) -> dict[str, Any]:
    """`state` (running, stopped or finished), counts, pace and the best so far, as plain values; None where unknown.

    `per_minute`, `seconds_each` and `utilisation` are of the last generations; `utilisation` is the seconds that
    workers spent on evaluations as a share of those they had, in [0, 1].
    """
    store = run.store(read_only=True)
    try:
        rows = [row for row in store.evaluations() if row.origin != DENSE]
        generations, finals, tests = store.generations(), len(store.finals()), len(store.tests())
    finally:
        store.close()
    best = min(judged_networks(rows), key=lambda row: (row.loss, row.id), default=None)
    return {
        "run": run.name,
        "state": state_of(run),
        "evaluations": len(rows),
        "asked": run.config.search.evaluations,
        "failed": sum(bool(row.failure) for row in rows),
        "generations": len(generations),
        "fine_tuned": finals,
        "tested": tests,
        **pace(run, generations, len(rows)),
        "best": None
        if best is None or best.loss is None or best.error is None
        else {
            "id": best.id,
            "origin": best.origin,
            "val_loss": best.loss,
            "val_accuracy": 1 - best.error,
            "macs_ratio": best.macs / run.structure["dense"]["macs"],
        },
    }


def state_of(run: Run) -> str:
    """``running``, ``finished`` or ``stopped``."""
    return "running" if run.running else "finished" if run.finished else "stopped"


def pace(run: Run, generations: Sequence[Mapping[str, Any]], evaluations: int) -> dict[str, Any]:
    """The part of `status` that is about speed, of a search that has come to so many `evaluations`."""
    recent = generations[-RECENT:]
    wall, seconds = sum(item["wall"] for item in recent), sum(item["seconds"] for item in recent)
    done = sum(item["evaluations"] for item in recent)
    workers = run.noted_engine().get("workers")
    left = max(0, run.config.search.evaluations - evaluations)
    return {
        "workers": workers,
        "per_minute": 60 * done / wall if wall else None,
        "seconds_each": seconds / done if done else None,
        "utilisation": min(1.0, seconds / (wall * workers)) if wall and workers else None,
        "seconds_left": left * wall / done if done and not run.finished else None,
    }
