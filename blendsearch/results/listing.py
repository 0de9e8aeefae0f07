"""Listing of all runs in a folder."""

from pathlib import Path

from blendsearch.errors import BlendsearchError
from blendsearch.results.records import RunListing
from blendsearch.results.status import get_state
from blendsearch.results.summary import has_accuracy
from blendsearch.runs.origin import DENSE
from blendsearch.runs.run import Run, list_runs, open_run


def summarize_runs(folder: Path) -> list[RunListing]:
    """List the runs by id. A run that cannot be read has the reason as its state."""
    return [_describe_run(folder, name) for name in list_runs(folder)]


def _describe_run(folder: Path, name: str) -> RunListing:
    try:
        run = open_run(folder, name)
        with run.open_store(read_only=True) as store:
            found = store.tally(DENSE)
    except BlendsearchError as error:
        return RunListing(run=name, state=f"unreadable: {error}")
    return RunListing(
        run=name,
        model=run.config.model.factory,
        data=run.config.data.dataset,
        budget=_format_budget(run),
        evaluations=found.evaluations,
        asked=run.config.search.evaluations,
        best_val_accuracy=None if found.least_error is None or not has_accuracy(run) else 1 - found.least_error,
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
