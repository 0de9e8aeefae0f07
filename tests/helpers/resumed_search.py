"""A search that is interrupted and resumed, beside one that is not."""

from pathlib import Path
from typing import Any

import pytest

from blendsearch.engine.local import LocalEngine
from blendsearch.events import Evaluated, Event, ignore_event
from blendsearch.pipeline.loop import search
from blendsearch.pipeline.problem.persistence import record, restore
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.runs.run import Run, open_run


def search_with_interruption(problem: Problem, folder: Path, stop_at: int) -> tuple[Run, Run]:
    """Search `problem` in two runs of `folder`: one at once, one resumed after it stopped at an evaluation's id."""
    complete, stopped = (record(problem, folder, name, []) for name in ("complete", "stopped"))
    search(complete, problem, LocalEngine(problem.evaluator), ignore_event)

    def stop(event: Event) -> None:
        if isinstance(event, Evaluated) and event.id == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(stopped, problem, LocalEngine(problem.evaluator), stop)
    again = restore(open_run(folder, "stopped"))
    search(stopped, again, LocalEngine(again.evaluator), ignore_event)
    return complete, stopped


def list_rows(run: Run) -> list[tuple[Any, ...]]:
    """List the evaluations of a run, without their ids and times."""
    with run.open_store(read_only=True) as store:
        rows = store.read_evaluations()
    return [(row.digest, row.cut, row.origin, row.genome, row.macs, row.loss) for row in rows]
