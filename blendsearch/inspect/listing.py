"""All runs of a folder at a glance."""

from pathlib import Path
from typing import Any

from blendsearch.errors import BlendsearchError
from blendsearch.inspect.summary import tells_error
from blendsearch.runs.directory import open_run, runs_in
from blendsearch.search.front import DENSE


def listing(folder: Path) -> list[dict[str, Any]]:
    """One object per run, by id; a run that cannot be read is listed with the reason as its state."""
    return [_row(folder, name) for name in runs_in(folder)]


def _row(folder: Path, name: str) -> dict[str, Any]:
    unknown = {"model": "", "data": "", "budget": "", "evaluations": 0, "asked": 0, "best_val_accuracy": None}
    try:
        run = open_run(folder, name)
        store = run.store(read_only=True)
        rows = [row for row in store.evaluations() if row.origin != DENSE]
        store.close()
    except BlendsearchError as error:
        return {"run": name, **unknown, "state": f"unreadable: {error}"}
    errors = [row.error for row in rows if row.error is not None]
    budget = ", ".join(
        f"{low:.0%} {cost}" if low == high else f"{low:.0%} to {high:.0%} {cost}"
        for cost, (low, high) in run.config.budget.spans().items()
    )
    if run.config.budget.keep is not None:
        budget = "widths given"
    return {
        "run": name,
        "model": run.config.model.factory,
        "data": run.config.data.dataset,
        "budget": budget,
        "evaluations": len(rows),
        "asked": run.config.search.evaluations,
        "best_val_accuracy": 1 - min(errors) if errors and tells_error(run) else None,
        "state": "finished" if run.finished else "unfinished",
    }
