"""The search, on one screen: ask, evaluate, tell, with a commit to the store in between.

This is the generational schedule; `steady.py` has the one without generations.
"""

from collections.abc import Mapping
from typing import Any

from blendsearch.engine.base import Engine
from blendsearch.pipeline.generational import by_generations
from blendsearch.pipeline.methods.preparation import keep_trained, with_measured
from blendsearch.pipeline.problem.problem import Report, Setting
from blendsearch.pipeline.recording import (
    judge_dense,
)
from blendsearch.pipeline.stages import finish, keep, measure_reported, promote, test
from blendsearch.pipeline.steady import steadily
from blendsearch.runs.run import Run


def search(run: Run, setting: Setting, engine: Engine, report: Report) -> None:
    """Evolve until the evaluations asked for are done, then finish what was found; continues where a run stands."""
    store = run.store()
    judge_dense(setting, engine, store, report)
    setting = with_measured(run, setting, engine, store, report)
    schedule = steadily if setting.config.search.schedule == "steady" else by_generations
    schedule(run, setting, engine, store, report)
    keep_trained(run, setting, store, report)
    promote(setting, engine, store, report)
    finish(run, setting, engine, store, report)
    test(setting, engine, store, report)
    keep(run, setting, engine, store, report)
    measure_reported(setting, store, report)
    evaluations = max((row.id for row in store.evaluations()), default=0)
    run.finish({"evaluations": evaluations, "generations": len(store.generations())})
    store.close()


def watched(engine: Engine, run: Run, report: Report) -> Report:
    """`report`, heard by `engine` too, which from now on writes its workers' logs into the run directory."""
    engine.watch(run.name, run.logs)

    def both(kind: str, facts: Mapping[str, Any]) -> None:
        engine.heard(kind, facts)
        report(kind, facts)

    return both
