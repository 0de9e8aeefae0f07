"""The verb inspect, for a config and for a run."""

import json
from pathlib import Path
from typing import Any

import pytest

from blendsearch.cli.main import main

CONFIG = """
model: {factory: digits_net, train: {epochs: 1, rate: 0.1}}
data: {dataset: digits, train_limit: 60, val_limit: 40, test_limit: 40, val_size: 0.3}
budget: {macs: 0.5}
criteria: {pool: [l1, fpgm], images: 32}
fitness: {recalibration_images: 32, device: cpu}
search: {evaluations: 6, population: 4}
finals: {picks: 1, tuning: {epochs: 2, batch_size: 32}}
engine: {threads: 1}
"""


def test_a_config_is_inspected_before_anything_starts(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits.yaml").write_text(CONFIG)
    main(["inspect", "digits.yaml", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert len(found["groups"]) > 2 and any("output" in item["reason"] for item in found["unpruned"])
    assert 0 < found["reachable"]["macs"] < 0.5 and found["budget"] == {"macs": [0.5, 0.5]}
    assert found["evaluation_seconds"] > 0 and found["final_seconds"] > 0 and found["base_seconds"] > 0
    parts = found["base_seconds"] + 6 * found["evaluation_seconds"] + found["final_seconds"]
    assert found["total_seconds"] == pytest.approx(parts)
    assert not Path("runs").exists()
    assert list(found["latency"]) == ["torch", "onnxruntime"][: len(found["latency"])]
    for item in found["latency"].values():
        assert item["ratio"] == pytest.approx(item["pruned_ms"] / item["dense_ms"]) and 0.3 < item["macs_ratio"] < 0.7
    main(["inspect", "digits.yaml", "--set", "budget.macs=0.001"])
    shown = capsys.readouterr().out
    assert "latency in torch: " in shown and "for the dense network, " in shown
    assert "OUT OF REACH" in shown and "whole search: about" in shown and "evaluations: 6 of about" in shown


def test_a_run_is_inspected_by_what_it_stores(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "digits.yaml"
    path.write_text(CONFIG)
    main(["search", str(path), "--runs", str(tmp_path), "--name", "one", "--no-finals"])
    capsys.readouterr()
    main(["inspect", "one", "--runs", str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["groups"] and found["evaluation_seconds"] > 0 and found["total_seconds"] > 0
    main(["inspect", "one", "--runs", str(tmp_path)])
    assert "evaluations: 6 of about" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["inspect", "one", "--runs", str(tmp_path), "--set", "seed=1"])
