"""Launch a search from a config: shared by the command line and the Python API."""

import socket
import time
from pathlib import Path

from blendsearch.engine.base import Engine
from blendsearch.engine.engine_checks import check_engine
from blendsearch.engine.factory import check_inputs, start_engine
from blendsearch.events import Reporter, RunCreated
from blendsearch.pipeline.loop import attach_engine, attach_training_store, search
from blendsearch.pipeline.problem.base_network import compute_base_key
from blendsearch.pipeline.problem.builder import build_problem
from blendsearch.pipeline.problem.inputs import NO_USER_INPUTS, UserInputs
from blendsearch.pipeline.problem.persistence import record
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.runs.config.schema import Config
from blendsearch.runs.files import BASE_FOLDER
from blendsearch.runs.run import Run
from blendsearch.training.training_store import FolderStore


def set_up_run(
    config: Config, folder: Path, name: str, command: list[str], report: Reporter, inputs: UserInputs = NO_USER_INPUTS
) -> tuple[Run, Problem, Engine]:
    """Make a run directory, its problem and its engine; on an error, nothing is left behind."""
    check_engine(config.engine, config.finals.workers)
    if config.engine.ray != "off":
        check_inputs(config.engine, inputs.list_sent())
    checkpoints = FolderStore(folder / BASE_FOLDER)
    problem = build_problem(config, report, inputs=inputs, checkpoints=checkpoints)
    engine = start_engine(config.engine, problem.evaluator, config.finals.workers)
    try:
        run = record(problem, folder, name, command)
    except BaseException:
        engine.close()
        raise
    checkpoints.delete(compute_base_key(problem.config))  # the run holds the trained network now
    report(RunCreated(run=run.name, path=str(run.path)))
    return run, problem, engine


def run_search(run: Run, problem: Problem, engine: Engine, report: Reporter) -> None:
    """Search `run` from its last stored state to the end, under its lock; closes the engine."""
    try:
        with run.lock():
            run.write_engine_facts({"started": time.time(), "workers": engine.workers, "host": socket.gethostname()})
            problem = attach_training_store(run, problem, engine, report)
            search(run, problem, engine, attach_engine(engine, run, report))
    finally:
        engine.close()
