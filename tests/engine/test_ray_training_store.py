"""Fine-tunes on Ray: a worker that dies during one is replaced, and the training continues from its checkpoint."""

import dataclasses
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluations import make_evaluator, make_requests

from blendsearch.engine.base import Engine
from blendsearch.engine.factory import start_engine
from blendsearch.engine.local import LocalEngine
from blendsearch.engine.ray_connection import authenticate
from blendsearch.events import Event
from blendsearch.fitness.evaluator import Evaluator, Outcome, Request
from blendsearch.runs.config.schema import EngineConfig
from blendsearch.training.hooks import StepInfo, TrainContext, TrainingHooks
from blendsearch.training.schedule import Schedule
from blendsearch.training.training_store import FolderStore

DIES_AT = 40
(REQUEST,) = make_requests(1, "final")
REQUEST = REQUEST._replace(return_weights=True)


def make(**recipe: Any) -> Evaluator:
    evaluator = make_evaluator()
    schedule = Schedule(6, 0.05, 32)
    return dataclasses.replace(
        evaluator, recipe=dataclasses.replace(evaluator.recipe, final=schedule, checkpoint_seconds=0.0, **recipe)
    )


def die_once(log: str) -> TrainingHooks:
    """Make hooks that log steps, and kill the process once after `DIES_AT` of them."""

    def on_step(info: StepInfo) -> None:
        with open(log, "a") as file:
            file.write(f"{os.getpid()} {info.step}\n")
        if info.step == DIES_AT and len(Path(log).read_text().splitlines()) == DIES_AT:
            os.kill(os.getpid(), signal.SIGKILL)

    return TrainingHooks(on_step=on_step)


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    authenticate("local")
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not see the folder of tests
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


def run(engine: Engine, request: Request) -> Outcome:
    engine.submit(request)
    (outcome,) = engine.iter_outcomes()
    return outcome


def test_a_fine_tune_whose_worker_dies_continues_elsewhere(ray: Any, tmp_path: Path) -> None:
    log, reports = tmp_path / "log", list[Event]()
    engine = start_engine(EngineConfig(ray="local", workers=1, threads=1), make(hooks=die_once(str(log))))
    engine.attach_store(FolderStore(tmp_path / "training", reports.append))
    try:
        found = run(engine, REQUEST)
    finally:
        engine.close()
    lines = [line.split() for line in log.read_text().splitlines()]
    workers = list(dict.fromkeys(process for process, _ in lines))
    steps = [int(step) for process, step in lines if process == workers[-1]]
    assert len(workers) == 2 and 1 < steps[0] <= DIES_AT + 1
    assert (tmp_path / "training" / f"{REQUEST.key}.bin").exists()  # until the searching process has stored the result
    wanted = run(LocalEngine(make()), REQUEST)
    assert not found.failure and found.loss == wanted.loss
    for name, array in (wanted.weights or {}).items():
        np.testing.assert_array_equal((found.weights or {})[name], array)


def train_with_file(module: Any, context: TrainContext) -> None:
    (context.directory / "state.txt").write_text(str(context.directory))
    raise RuntimeError(f"kept in {context.directory}")


@pytest.mark.slow
def test_dense_outputs_and_folders_are_those_of_the_run(ray: Any, tmp_path: Path) -> None:
    distilled = {"distillation": 0.5, "views": 2}
    engine = start_engine(EngineConfig(ray="local", workers=1, threads=1, retries=0), make(**distilled))
    engine.attach_store(FolderStore(tmp_path / "training"))
    try:
        found = run(engine, REQUEST)
    finally:
        engine.close()
    assert (tmp_path / "training" / "teacher.bin").exists()
    assert found.loss == run(LocalEngine(make(**distilled)), REQUEST).loss
    hooks = TrainingHooks(train_fn=train_with_file)
    engine = start_engine(EngineConfig(ray="local", workers=1, threads=1, retries=0), make(hooks=hooks))
    engine.attach_store(FolderStore(tmp_path / "training"))
    try:
        assert f"kept in {tmp_path / 'training'}" in run(engine, REQUEST).failure
    finally:
        engine.close()
    assert list((tmp_path / "training").glob("*.files/state.txt"))
