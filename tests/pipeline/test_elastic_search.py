"""Searches with an elastic tune: stored, resumed after a kill, exported, and refused where it cannot work."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file

import blendsearch as bs
from blendsearch.cli.main import main
from blendsearch.errors import ConfigError, RunError
from blendsearch.events import Event, FineTuned, MethodProgress
from blendsearch.fitness.evaluator import make_request
from blendsearch.pipeline.control_runs import make_control_config
from blendsearch.pipeline.elastic_tune import make_sub_networks
from blendsearch.pipeline.problem.persistence import restore
from blendsearch.runs.config.loading import load_config
from blendsearch.runs.run import open_run
from blendsearch.structure.groups import unpack_cut
from blendsearch.zoo.digits_net import digits_net

TUNE = (
    "training.elastic={epochs: 3, rate: 0.02, batch_size: 32}",
    "training.checkpoint_seconds=0.05",
)


def search(config: Path, runs: Path, name: str, *changes: str) -> list[str]:
    words = ["search", str(config), "--runs", str(runs), "--name", name]
    return words + [word for change in (*TUNE, *changes) for word in ("--set", change)]


@pytest.fixture(scope="module")
def tuned_runs(tmp_path_factory: pytest.TempPathFactory, small_config: dict[str, Any]) -> Path:
    """Make a folder with the config and with a finished run with an elastic tune, ``one``."""
    folder = tmp_path_factory.mktemp("elastic")
    tree = small_config | {"finals": {"picks": 0}}
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    main(search(folder / "config.yaml", folder, "one"))
    return folder


def read_rows(runs: Path, name: str) -> list[tuple[Any, ...]]:
    with open_run(runs, name).open_store(read_only=True) as store:
        return [(row.id, row.digest, row.loss, row.error) for row in store.read_evaluations()]


def test_candidates_are_sliced_out_of_the_tuned_network_and_the_dense_row_is_not(tuned_runs: Path) -> None:
    run = open_run(tuned_runs, "one")
    dense, tuned = run.read_arrays("dense"), run.read_arrays("elastic")
    assert dense.keys() == tuned.keys() and any((dense[name] != tuned[name]).any() for name in dense)
    assert not list((run.path / "training").glob("*")), "the state of the tune was left behind"
    problem = restore(run)
    assert problem.evaluator.tuned is not None
    with run.open_store(read_only=True) as store:
        rows = store.read_evaluations()
    for row in rows[:3]:
        cut = unpack_cut(row.cut, problem.structure.maps.channels)
        request = make_request(cut, row.fidelity, run.config.seed)
        assert problem.evaluator.evaluate(request).loss == row.loss
    assert rows[0].origin == "dense"
    assert problem.evaluator.measure(problem.model, "val")[0] == rows[0].loss


def test_sub_networks_are_within_the_budgets_and_the_first_is_the_smallest(tuned_runs: Path) -> None:
    problem = restore(open_run(tuned_runs, "one"))
    sub_networks, maps = make_sub_networks(problem), problem.structure.maps
    ratios = []
    for step in range(20):
        cuts = sub_networks.sample_cuts(step)
        assert all((one == two).all() for one, two in zip(cuts, sub_networks.sample_cuts(step), strict=True))
        counts = [maps.count_kept(cut) for cut in cuts]
        ratios.append([float(problem.structure.oracle.compute_ratio("macs", kept)) for kept in counts])
    smallest, others = np.array(ratios).T
    assert (smallest <= 0.5).all() and smallest.mean() > 0.48
    assert others.mean() > 0.6 and np.ptp(others) > 0.2


def test_an_exported_network_is_the_evaluated_one(tuned_runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    folder = tuned_runs / "exported"
    main(["export", "one", "--runs", str(tuned_runs), "--pick", "best", "--to", str(folder), "--json"])
    written = json.loads(capsys.readouterr().out)
    best = next(row for row in read_rows(tuned_runs, "one") if row[0] == written["id"])
    assert written["val_loss"] == pytest.approx(best[2], rel=1e-5)
    module = bs.open("one", runs=tuned_runs).network(written["id"]).module()
    for name, array in load_file(folder / "weights.safetensors").items():
        np.testing.assert_array_equal(array, module.state_dict()[name].numpy())


def test_a_run_without_its_tuned_weights_is_not_exported(tuned_runs: Path, tmp_path: Path) -> None:
    shutil.copytree(tuned_runs / "one", tmp_path / "one")
    (tmp_path / "one" / "elastic.safetensors").unlink()
    opened = bs.open("one", runs=tmp_path)
    with pytest.raises(RunError, match="elastic.safetensors is missing"):
        opened.best().module()


@pytest.mark.slow  # test_elastic.py interrupts the tune
@pytest.mark.parametrize("during", ["tune", "search"])
def test_a_killed_search_ends_as_without_the_kill(tuned_runs: Path, tmp_path: Path, during: str) -> None:
    words = search(tuned_runs / "config.yaml", tmp_path, "killed")
    process = subprocess.Popen([sys.executable, "-m", "blendsearch", *words], stdout=subprocess.DEVNULL)
    run = tmp_path / "killed"
    state, tuned = run / "training" / "elastic.bin", run / "elastic.safetensors"
    deadline = time.monotonic() + 300
    while not (state if during == "tune" else tuned).exists() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert tuned.exists() == (during == "search") and not (run / "finished.json").exists()
    main(["resume", "killed", "--runs", str(tmp_path)])
    assert read_rows(tmp_path, "killed") == read_rows(tuned_runs, "one")
    assert tuned.read_bytes() == (tuned_runs / "one" / "elastic.safetensors").read_bytes()


def test_a_fork_has_the_tuned_network_of_its_parent(tuned_runs: Path) -> None:
    opened = bs.open("one", runs=tuned_runs)
    made = bs.fork(opened, {"search.evaluations": 34}, name="forked", progress=False)
    assert (made.path / "elastic.safetensors").read_bytes() == (opened.path / "elastic.safetensors").read_bytes()
    parent = {row[1]: row[2:] for row in read_rows(tuned_runs, "one")}
    forked = {row[1]: row[2:] for row in read_rows(tuned_runs, "forked")}
    shared = parent.keys() & forked.keys()
    assert len(shared) > 20 and all(parent[digest] == forked[digest] for digest in shared)


def test_controls_search_in_the_tuned_network_and_those_that_train_themselves_do_not_tune(tuned_runs: Path) -> None:
    main(["compare", "one", "--runs", str(tuned_runs), "--controls", "random", "--seeds", "1"])
    run = open_run(tuned_runs, "one")
    control = open_run(run.path / "controls", "random-3")
    assert (control.path / "elastic.safetensors").read_bytes() == (run.path / "elastic.safetensors").read_bytes()
    for method in ("derived", "tailored", "depthwise"):
        assert make_control_config(run.config, method, 3).training.elastic.epochs == 0


@pytest.mark.slow
def test_workers_on_ray_slice_out_of_the_same_network(tuned_runs: Path, tmp_path: Path) -> None:
    main(search(tuned_runs / "config.yaml", tmp_path, "ray", "engine.ray=local", "engine.workers=2"))
    assert read_rows(tmp_path, "ray") == read_rows(tuned_runs, "one")


def test_a_python_search_reports_the_tune_and_builds_its_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blendsearch.training.trainer.REPORT_SECONDS", 0.0)
    events: list[Event] = []
    run = bs.search(
        {"factory": "digits_net", "arguments": {"width": 4}, "train": {"epochs": 1, "rate": 0.1}},
        "digits",
        budget=bs.macs(0.5),
        evaluations=6,
        criteria={"pool": ["l1"], "images": 64},
        evolution={"population": 4},
        finals={"picks": 0},
        training={"elastic": {"epochs": 1}},
        device="cpu",
        runs=tmp_path,
        progress=events.append,
    )
    assert any(isinstance(event, FineTuned) and event.key == "elastic" for event in events)
    (last,) = [event for event in events if isinstance(event, MethodProgress)]
    assert last.to_dict()["event"] == "elastic" and last.done == 1 and "sub-networks" in last.line
    evaluator = run.load_problem().evaluator
    assert evaluator.measure(run.best().module(), "val")[0] == pytest.approx(run.best().val_loss, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (["transform=depthwise"], "leave it out with a transform"),
        (["method=tailored"], "method tailored trains its network itself"),
        (["fitness.fidelity=raw"], "fidelity recalibrated or tuned"),
    ],
)
def test_an_elastic_tune_that_cannot_work_is_refused(config_file: Path, changes: list[str], reason: str) -> None:
    load_config(config_file, changes)
    with pytest.raises(ConfigError, match=reason) as refused:
        load_config(config_file, [*TUNE, *changes])
    assert "\n" not in str(refused.value)


def test_an_elastic_tune_without_a_loss_is_refused(tmp_path: Path) -> None:
    images = torch.randn(64, 1, 8, 8)
    with pytest.raises(ConfigError, match=r"training\.elastic needs a loss"):
        bs.search(
            digits_net(width=4),
            (images, torch.randn(64, 3)),
            budget=bs.macs(0.5),
            evaluate=lambda module: {"loss": float(module(images).square().mean())},
            training={"elastic": {"epochs": 1}},
            runs=tmp_path,
            progress=False,
        )
