"""Trackers receive the numbers of a search; each is tested with its library, offline, where that is installed."""

from pathlib import Path
from typing import Any

import pytest

from blendsearch.cli.main import main
from blendsearch.errors import ConfigError
from blendsearch.events import DenseEvaluated, Evaluated, Event, GenerationDone, RunCreated, Warned, join_reporters
from blendsearch.progress.tracking import collect_metrics, get_step, make_tracker

RESULT: dict[str, Any] = {"macs_ratio": 0.5, "params_ratio": 0.4, "seconds": 1.0, "failure": ""}
EVENTS: list[Event] = [
    RunCreated(run="one", path="runs/one"),
    DenseEvaluated(id=0, origin="dense", loss=0.5, error=0.1, tells_error=True, **RESULT),
    Evaluated(id=1, origin="evolved", loss=1.5, error=0.25, busy=1, workers=1, **RESULT),
    Evaluated(id=2, origin="evolved", loss=None, error=None, busy=1, workers=1, **RESULT),
    GenerationDone(generation=1, evaluations=2, seconds=1.0, front=1, hypervolume=0.5, best_loss=1.5),
    Warned(text="careful"),
]


def report_all(tracker: Any) -> None:
    for event in EVENTS:
        tracker(event)
    tracker.close()


def test_the_numbers_are_those_of_the_events() -> None:
    assert [(get_step(event), collect_metrics(event)) for event in EVENTS[1:5]] == [
        (0, {"dense/loss": 0.5, "dense/error": 0.1, "dense/macs": 0.5, "dense/params": 0.4}),
        (1, {"network/loss": 1.5, "network/error": 0.25, "network/macs": 0.5, "network/params": 0.4}),
        (2, {"network/macs": 0.5, "network/params": 0.4}),
        (2, {"search/best_loss": 1.5, "search/front": 1.0, "search/hypervolume": 0.5}),
    ]
    assert collect_metrics(EVENTS[0]) == collect_metrics(EVENTS[5]) == {}


def test_several_reporters_receive_every_event() -> None:
    one: list[Event] = []
    two: list[Event] = []
    report = join_reporters([one.append, two.append])
    for event in EVENTS:
        report(event)
    assert one == two == EVENTS


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(ConfigError, match="known are tensorboard, mlflow, wandb"):
        make_tracker("tensorbord:logs")


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorboard", "mlflow", "wandb"):
        for module in ("torch.utils.tensorboard", "tensorboardX", "mlflow", "wandb"):
            monkeypatch.setitem(__import__("sys").modules, module, None)
        with pytest.raises(ConfigError, match=rf"pip install 'blendsearch\[{name}\]'"):
            make_tracker(name)


def test_tensorboard_reads_a_search(config_file: Path, tmp_path: Path, capsys: Any) -> None:
    try:
        make_tracker(f"tensorboard:{tmp_path / 'probe'}").close()
    except ConfigError:
        pytest.skip("neither tensorboard nor tensorboardX is installed")
    words = ["search", str(config_file), "--runs", str(tmp_path / "runs"), "--set", "search.evaluations=4"]
    main([*words, "--track", f"tensorboard:{tmp_path / 'logs'}"])
    (file,) = (tmp_path / "logs").iterdir()
    assert b"network/loss" in file.read_bytes() and b"search/hypervolume" in file.read_bytes()


def test_mlflow_reads_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    report_all(make_tracker("mlflow:pruning"))
    client = mlflow.tracking.MlflowClient()
    experiment = client.get_experiment_by_name("pruning")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.data.metrics["network/loss"] == 1.5 and found.data.tags["blendsearch.run"] == "one"
    assert found.info.status == "FINISHED"


def test_wandb_reads_a_search_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    report_all(make_tracker("wandb:pruning"))
    assert list(tmp_path.rglob("*.wandb"))
