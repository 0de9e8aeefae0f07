"""How a search is going: read from its run directory, which is left as it is."""

from typing import Any

from blendsearch.inspect.summary import tells_error
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
    asked = run.config.search.evaluations
    recent = generations[-RECENT:]
    wall, seconds = sum(item["wall"] for item in recent), sum(item["seconds"] for item in recent)
    done = sum(item["evaluations"] for item in recent)
    workers = run.noted_engine().get("workers")
    state = "running" if run.running else "finished" if run.finished else "stopped"
    left = max(0, asked - len(rows))
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
        "workers": workers,
        "per_minute": 60 * done / wall if wall else None,
        "seconds_each": seconds / done if done else None,
        "utilisation": min(1.0, seconds / (wall * workers)) if wall and workers else None,
        "seconds_left": left * wall / done if done and state != "finished" else None,
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
