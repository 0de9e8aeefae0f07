"""A run as an Optuna study: the same networks, values and widths."""

import shutil
from pathlib import Path

import pytest

import blendsearch
from blendsearch.errors import RunError
from blendsearch.results.network import describe_network
from blendsearch.runs.run import open_run

GOLDEN = Path(__file__).parents[1] / "golden" / "runs"


@pytest.mark.parametrize(("name", "objectives"), [("single", 1), ("digits", 2)])
def test_a_study_has_the_networks_of_the_run(name: str, objectives: int, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    shutil.copytree(GOLDEN / name, tmp_path / name)
    study = blendsearch.open(name, runs=tmp_path).to_optuna(f"sqlite:///{tmp_path / 'study.db'}")
    assert len(study.directions) == objectives
    run = open_run(tmp_path, name)
    trial = next(item for item in study.trials if item.user_attrs["id"] == 2)
    network = describe_network(run, "2")
    assert trial.params == {group.group: group.kept for group in network.groups}
    assert trial.user_attrs["macs_ratio"] == network.macs_ratio and trial.user_attrs["cut"] == network.cut
    best = min(study.trials, key=lambda item: item.values[0])
    with run.open_store(read_only=True) as store:
        assert best.values[0] == min(row.loss for row in store.read_evaluations() if row.id and row.loss is not None)
    with pytest.raises(RunError, match="already in"):
        blendsearch.open(name, runs=tmp_path).to_optuna(f"sqlite:///{tmp_path / 'study.db'}")


def test_a_missing_optuna_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    shutil.copytree(GOLDEN / "single", tmp_path / "single")
    with pytest.raises(RunError, match=r"blendsearch\[optuna\]"):
        blendsearch.open("single", runs=tmp_path).to_optuna()
