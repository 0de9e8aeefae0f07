"""Long fine-tunes on several workers of a cluster: refusals, results and faults."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import faulty
import numpy as np
import pytest
import torch
import yaml
from evaluations import collect_outcomes, make_evaluator, make_requests

from blendsearch.cli.main import main
from blendsearch.engine.base import Engine
from blendsearch.engine.factory import check_engine, start_engine
from blendsearch.engine.ray_connection import authenticate
from blendsearch.engine.ray_train import find_cause
from blendsearch.engine.ray_train_checks import check_batches
from blendsearch.errors import ConfigError, EngineError
from blendsearch.fitness.evaluator import Evaluator, Outcome, Request
from blendsearch.runs.config.loading import load_config
from blendsearch.runs.config.schema import EngineConfig
from blendsearch.runs.worker_logs import WorkerLogs, read_logs
from blendsearch.training.schedule import Schedule


def test_several_workers_without_ray_are_refused_in_one_line(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["search", str(config_file), "--runs", str(tmp_path / "runs"), "--set", "finals.workers=2"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip()
    assert "finals.workers is 2 and engine.ray is off" in said and "\n" not in said
    assert not (tmp_path / "runs").exists()


def test_missing_ray_train_is_refused_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    check_engine(EngineConfig(ray="local"), 2)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    check_engine(EngineConfig(ray="local"), 1)
    with pytest.raises(EngineError, match=r"pyarrow.*pip install 'blendsearch\[train\]'") as refused:
        check_engine(EngineConfig(ray="local"), 2)
    assert "\n" not in str(refused.value)


def test_indivisible_batches_are_refused(config_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"the 3 workers cannot share batches of 128 evenly"):
        load_config(config_file, ["finals.workers=3"])
    assert load_config(config_file, ["finals.workers=3", "finals.tuning.batch_size=96"]).finals.workers == 3
    held = make_evaluator()
    check_batches(held, 2)
    few = replace(held, recipe=replace(held.recipe, final=Schedule(1, 0.1, batch_size=64, images=49)))
    check_batches(few, 7)
    with pytest.raises(EngineError, match=r"49 training images are one batch .* evenly among 2 workers"):
        check_batches(few, 2)


def test_workers_of_finals_cannot_be_changed_afterwards(
    quick: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick["search"]["evaluations"] = 12
    quick["finals"] = {"picks": 1, "tuning": {"epochs": 0.1}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(quick))
    main(["search", str(tmp_path / "config.yaml"), "--runs", str(tmp_path), "--name", "one"])
    for change in ("finals.workers=2", "finals.distillation=0.5"):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["resume", "one", "--runs", str(tmp_path), "--set", change])
        assert ended.value.code == 2
        assert "were fine-tuned with the old value" in capsys.readouterr().err


def test_the_cause_of_a_failed_training_is_found() -> None:
    authenticate("local")
    from ray.exceptions import ActorDiedError, RayError, RayTaskError
    from ray.train import ControllerError, WorkerGroupError
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError

    def told(cause: Exception) -> tuple[BaseException, bool]:
        return find_cause(RayTaskError("train", "a trace", cause), RayError)

    unreached = UserExceptionWithTraceback(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed"), "")
    died = WorkerHealthCheckFailedError("no answer", ActorDiedError())
    cause, lost = told(WorkerGroupError("", {0: unreached, 1: died}))
    assert lost and isinstance(cause, ActorDiedError)
    cause, lost = told(WorkerGroupError("", {0: unreached, 1: UserExceptionWithTraceback(ValueError("no"), "")}))
    assert not lost and isinstance(cause, ValueError)
    assert told(WorkerGroupError("", {0: unreached}))[1], "who it did not reach is not known yet"
    cause, lost = told(ControllerError(OSError("no such folder")))
    assert not lost and isinstance(cause, OSError)
    assert find_cause(ActorDiedError(), RayError)[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of planned faults, and Ray with two CPUs, which idle workers occupy."""
    made = tmp_path_factory.mktemp("several")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAULTS_DIR", str(made))
        authenticate("local")
        import ray

        ray.cloudpickle.register_pickle_by_value(faulty)  # workers do not see the folder of tests
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield made
        ray.shutdown()


def started(folder: Path, logs: Path, plan: dict[str, str], **more: Any) -> Engine:
    """Start an engine whose finals take both CPUs; evaluations in `plan` fail as planned."""
    (folder / "log").unlink(missing_ok=True)
    (folder / "plan.json").write_text(json.dumps(plan))
    held = make_evaluator()
    held = faulty.Faulty(held.model, held.maps, held.splits, held.recipe, held.device)
    engine = start_engine(EngineConfig(**{"ray": "local", "workers": 2, "threads": 1, "retries": 1, **more}), held, 2)
    engine.start_telemetry("one", WorkerLogs(logs))
    return engine


def finals(number: int) -> list[Request]:
    return [item._replace(return_weights=True) for item in make_requests(number, "final")]


def same(one: Outcome, other: Outcome) -> bool:
    """Return True if two outcomes are equal bit for bit, except for their seconds."""
    assert one.weights is not None and other.weights is not None
    numbers = one._replace(seconds=0, weights=None) == other._replace(seconds=0, weights=None)
    return numbers and all(np.array_equal(one.weights[name], other.weights[name]) for name in one.weights)


@pytest.fixture(scope="module")
def direct() -> Evaluator:
    torch.set_num_threads(1)
    return make_evaluator()


@pytest.mark.slow
def test_finals_on_two_workers_equal_finals_on_one(folder: Path, tmp_path: Path, direct: Evaluator) -> None:
    engine = started(folder, tmp_path, {})
    short, long = make_requests(3), finals(2)
    outcomes = {}
    for item in [*long, *short]:
        engine.submit(item)
    for outcome in engine.iter_outcomes():
        outcomes[outcome.digest, outcome.seed] = outcome
    assert len(outcomes) == 5
    for item in short:
        assert outcomes[item.digest, item.seed]._replace(seconds=0) == direct.evaluate(item)._replace(seconds=0)
    for item in long:
        found, alone = outcomes[item.digest, item.seed], direct.evaluate(item)
        assert not found.failure and found.weights is not None and alone.weights is not None
        assert found.loss == pytest.approx(alone.loss, rel=1e-3)
        assert found.weights.keys() == alone.weights.keys()
        for name, array in alone.weights.items():
            np.testing.assert_allclose(found.weights[name], array, rtol=1e-2, atol=1e-4, err_msg=name)
    # and again, with what came in between: the same bits, and workers for what is short
    repeated = long[0]._replace(split="both")
    again = collect_outcomes(engine, [short[1], repeated])[repeated.digest]
    engine.close()
    assert again.test == pytest.approx(direct.measure(direct.build_network(repeated), "test"), rel=1e-2)
    assert same(again._replace(test=None), outcomes[repeated.digest, repeated.seed])
    lines = [item for item in read_logs(tmp_path) if item.get("fidelity") == "final"]
    assert [item["event"] for item in lines] == ["evaluated"] * 3
    numbers = {item["worker"] for item in lines}
    begun = [item for item in read_logs(tmp_path) if item["event"] == "started" and item["worker"] in numbers]
    assert len(begun) == 6 and len({item["process"] for item in begun}) == 6


@pytest.mark.slow
def test_a_killed_worker_of_a_final_costs_one_attempt(folder: Path, tmp_path: Path, direct: Evaluator) -> None:
    item = finals(1)[0]
    engine = started(folder, tmp_path, {item.digest: "hang once"})

    def kill() -> None:
        for _ in range(6000):
            time.sleep(0.05)
            begun = [line for line in read_logs(tmp_path) if line["event"] == "started" and line["worker"] > 1]
            if len(begun) >= 2:
                os.kill(begun[1]["process"], signal.SIGKILL)  # not the one that hangs
                return

    killer = threading.Thread(target=kill)
    killer.start()
    found = collect_outcomes(engine, [item])[item.digest]
    killer.join()
    engine.close()
    lines = [line for line in read_logs(tmp_path) if line["event"] != "started"]
    assert [(line["event"], line.get("again")) for line in lines] == [("lost", True), ("evaluated", None)]
    engine = started(folder, tmp_path / "undisturbed", {})
    assert same(found, collect_outcomes(engine, [item])[item.digest])
    engine.close()


@pytest.mark.slow
def test_faulty_finals_fail_after_their_attempts_and_others_succeed(
    folder: Path, tmp_path: Path, direct: Evaluator
) -> None:
    raises, hangs = finals(2)
    engine = started(folder, tmp_path, {raises.digest: "raise", hangs.digest: "hang"}, final_timeout=30, retries=0)
    outcomes = collect_outcomes(engine, [raises, hangs])
    assert "this candidate cannot be evaluated" in outcomes[raises.digest].failure
    assert "not done after 30 s" in outcomes[hangs.digest].failure
    lines = [line for line in read_logs(tmp_path) if line["event"] != "started"]
    assert [(line["event"], line["again"]) for line in lines] == [("failed", False), ("killed", False)]
    assert "faulty.py" in lines[0]["trace"]
    good = make_requests(3)[2]  # what they held is free again
    assert collect_outcomes(engine, [good])[good.digest]._replace(seconds=0) == direct.evaluate(good)._replace(
        seconds=0
    )
    engine.close()


@pytest.mark.slow
def test_more_workers_than_the_cluster_has_are_refused(folder: Path) -> None:
    with pytest.raises(EngineError, match=r"no room for the 4 workers of a fine-tune \(finals.workers\)") as refused:
        start_engine(EngineConfig(ray="local", threads=1), make_evaluator(), 4)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_a_search_with_two_workers_per_final_finishes(
    folder: Path, config_file: Path, quick: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick["search"]["evaluations"] = 12
    quick["finals"] = {"picks": 1, "workers": 2, "distillation": 0.5, "tuning": {"epochs": 0.3}}
    config_file.write_text(yaml.safe_dump(quick))
    main(["search", str(config_file), "--runs", str(tmp_path), "--name", "one", "--ray", "local", "--json"])
    said = capsys.readouterr()
    assert "ray.train" not in said.err and "Traceback" not in said.err
    main(["front", "one", "--runs", str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["finished"] and found["finals"]
    main(["export", "one", "--runs", str(tmp_path), "--pick", "best", "--to", str(tmp_path / "best")])
    assert not list(Path.home().glob("ray_results"))
