"""A search from its first stage to its last."""

from dataclasses import replace

from blendsearch.engine.base import Engine
from blendsearch.event_log import log_event
from blendsearch.events import Event, Reporter
from blendsearch.garbage import pause_garbage_collection
from blendsearch.pipeline.elastic_tune import attach_elastic
from blendsearch.pipeline.generational import run_generational
from blendsearch.pipeline.methods.preparation import prepare_allocations, store_trained_network
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.pipeline.problem.session import SearchSession
from blendsearch.pipeline.recording import evaluate_dense
from blendsearch.pipeline.stages import (
    evaluate_on_test_set,
    measure_reported_latencies,
    promote,
    run_finals,
    save_front_weights,
)
from blendsearch.pipeline.steady import run_steady
from blendsearch.runs.checkpoint import load_checkpoint
from blendsearch.runs.config.checks import check_searchable
from blendsearch.runs.run import Run
from blendsearch.training.training_store import FolderStore

TRAINING_FOLDER = "training"
"""Folder of a run with the states of its fine-tunes and the dense network's outputs."""

SCHEDULES = {"generational": run_generational, "steady": run_steady}


def search(run: Run, problem: Problem, engine: Engine, report: Reporter) -> None:
    """Run every stage of a search; a stage that is already complete in `run` adds nothing."""
    check_searchable(problem.config)
    with run.open_store() as store:
        with pause_garbage_collection():
            store.check()
        if problem.config.search.schedule == "generational":  # a steady search can resume from its journal
            load_checkpoint(run.checkpoints, lambda line: None)  # refuses damage before earlier stages add anything
        session = SearchSession(run, problem, engine, store, report)
        evaluate_dense(session)
        session = replace(session, problem=attach_elastic(session))
        session = replace(session, problem=prepare_allocations(session))
        SCHEDULES[problem.config.search.schedule](session)
        store_trained_network(session)
        promote(session)
        run_finals(session)
        evaluate_on_test_set(session)
        save_front_weights(session)
        measure_reported_latencies(session)
        run.finish({"evaluations": store.read_last_id(), "generations": len(store.read_generations())})


def attach_training_store(run: Run, problem: Problem, engine: Engine, report: Reporter) -> Problem:
    """Keep the states of trainings in the run directory; return the problem with that store."""
    store = FolderStore(run.path / TRAINING_FOLDER, report)
    engine.attach_store(store)
    return replace(problem, evaluator=replace(problem.evaluator, store=store))


def attach_engine(engine: Engine, run: Run, report: Reporter) -> Reporter:
    """Start `engine`'s telemetry in the run directory and return a reporter for it, the log and `report`."""
    engine.start_telemetry(run.name, run.logs)

    def report_to_both(event: Event) -> None:
        log_event(event)
        engine.receive_event(event)
        report(event)

    return report_to_both
