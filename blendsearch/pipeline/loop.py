"""The search, on one screen: ask, evaluate, tell, with a commit to the store in between.

This is the generational schedule; `steady.py` has the one without generations.
"""

from collections.abc import Mapping
from typing import Any

from blendsearch.engine.base import Engine
from blendsearch.pipeline.generational import run_generational
from blendsearch.pipeline.methods.preparation import prepare_allocations, store_trained_network
from blendsearch.pipeline.problem.problem import Problem, Reporter
from blendsearch.pipeline.recording import (
    evaluate_dense,
)
from blendsearch.pipeline.stages import (
    evaluate_on_test_set,
    measure_reported_latencies,
    promote,
    run_finals,
    save_front_weights,
)
from blendsearch.pipeline.steady import run_steady
from blendsearch.runs.run import Run


def search(run: Run, problem: Problem, engine: Engine, report: Reporter) -> None:
    """Evolve until the evaluations asked for are done, then finish what was found; continues where a run stands."""
    with run.open_store() as store:
        evaluate_dense(problem, engine, store, report)
        problem = prepare_allocations(run, problem, engine, store, report)
        schedule = run_steady if problem.config.search.schedule == "steady" else run_generational
        schedule(run, problem, engine, store, report)
        store_trained_network(run, problem, store, report)
        promote(problem, engine, store, report)
        run_finals(run, problem, engine, store, report)
        evaluate_on_test_set(problem, engine, store, report)
        save_front_weights(run, problem, engine, store, report)
        measure_reported_latencies(problem, store, report)
        evaluations = max((row.id for row in store.read_evaluations()), default=0)
        run.finish({"evaluations": evaluations, "generations": len(store.read_generations())})


def attach_engine(engine: Engine, run: Run, report: Reporter) -> Reporter:
    """`report`, heard by `engine` too, which from now on writes its workers' logs into the run directory."""
    engine.start_telemetry(run.name, run.logs)

    def report_to_both(kind: str, facts: Mapping[str, Any]) -> None:
        engine.receive_event(kind, facts)
        report(kind, facts)

    return report_to_both
