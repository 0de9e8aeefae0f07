"""Whole searches on digits: better than their baselines, repeatable, and resumable after a kill."""

import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import blendsearch
from blendsearch.cli.main import main
from blendsearch.structure.cost import count_macs
from blendsearch.zoo.digits_net import digits_net


def front(runs: Path, name: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    main(["front", name, "--runs", str(runs), "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return {key: found[key] for key in ("dense", "baselines", "front")}


def search(config: Path, runs: Path, name: str, *changes: str) -> None:
    words = ["search", str(config), "--runs", str(runs), "--name", name]
    main(words + [word for change in changes for word in ("--set", change)])


def origins(runs: Path, name: str, generation: int) -> list[str]:
    connection = sqlite3.connect(runs / name / "run.sqlite")
    query = "SELECT digest FROM evaluations WHERE generation = ? AND id > 0 ORDER BY id"
    return [digest for (digest,) in connection.execute(query, (generation,))]


def test_a_search_ends_below_its_baselines_within_its_budget(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search(config_file, tmp_path, "one")
    shown = capsys.readouterr().out
    assert "test acc" in shown and "best" in shown and "dense" in shown
    found = front(tmp_path, "one", capsys)
    assert min(row["val_loss"] for row in found["front"]) <= min(row["val_loss"] for row in found["baselines"])
    for row in found["front"] + found["baselines"]:
        assert 0.48 <= row["macs_ratio"] <= 0.5
        assert row["test_accuracy"] is not None
    assert found["dense"][0]["macs_ratio"] == 1


def test_equal_seeds_give_equal_fronts_and_others_other_populations(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        search(config_file, tmp_path, name, f"seed={seed}")
    assert front(tmp_path, "one", capsys) == front(tmp_path, "same", capsys)
    first, other = (origins(tmp_path, name, 1) for name in ("one", "other"))
    assert first and not set(first) & set(other)
    population = origins(tmp_path, "one", 0)
    assert len(set(population)) == len(population)


def test_a_killed_search_resumes_to_the_front_it_would_have_had(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search(config_file, tmp_path, "whole")
    words = ["search", str(config_file), "--runs", str(tmp_path), "--name", "killed"]
    process = subprocess.Popen([sys.executable, "-m", "blendsearch", *words], stdout=subprocess.DEVNULL)
    store = tmp_path / "killed" / "run.sqlite"
    for _ in range(6000):
        time.sleep(0.02)
        if store.exists() and len(origins(tmp_path, "killed", 1)) >= 2:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "finished.json").exists(), "the search was over before it could be killed"
    before = sqlite3.connect(store).execute("SELECT id, loss, seconds FROM evaluations ORDER BY id").fetchall()
    main(["resume", "killed", "--runs", str(tmp_path)])
    assert front(tmp_path, "killed", capsys) == front(tmp_path, "whole", capsys)
    after = sqlite3.connect(store).execute("SELECT id, loss, seconds FROM evaluations ORDER BY id").fetchall()
    assert [item for item in after if item in before] == before, "finished evaluations were lost or repeated"
    main(["resume", "killed", "--runs", str(tmp_path)])
    assert "nothing to resume" in capsys.readouterr().err


def test_an_interrupted_search_says_how_to_go_on(config_file: Path, tmp_path: Path) -> None:
    words = [
        "search",
        str(config_file),
        "--runs",
        str(tmp_path),
        "--name",
        "stopped",
        "--set",
        "search.evaluations=5000",
    ]
    process = subprocess.Popen([sys.executable, "-m", "blendsearch", *words], stderr=subprocess.PIPE, text=True)
    for _ in range(6000):
        time.sleep(0.02)
        if (tmp_path / "stopped" / "run.sqlite").exists() and origins(tmp_path, "stopped", 0):
            break
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "blendsearch resume stopped" in said
    assert "Traceback" not in said


def test_a_front_over_a_span_of_budgets_is_exported_and_loaded_as_reported(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search(config_file, tmp_path, "span", "budget.macs=[0.2,0.7]", "search.evaluations=48", "fitness.fidelity=tuned")
    found = front(tmp_path, "span", capsys)
    ratios = [row["macs_ratio"] for row in found["front"]]
    assert ratios == sorted(ratios) and len(ratios) >= 2
    assert max(ratios) <= 0.7
    image = torch.zeros(1, 1, 8, 8)
    dense = count_macs(digits_net(width=8).eval(), image)
    for what in ("best", "knee", str(found["front"][0]["id"])):
        folder = tmp_path / f"export-{what}"
        main(["export", "span", "--runs", str(tmp_path), "--pick", what, "--to", str(folder), "--json"])
        written = json.loads(capsys.readouterr().out)
        row = next(row for row in found["front"] if row["id"] == written["id"])
        assert sorted(path.name for path in folder.iterdir()) == ["README.md", "network.json", "weights.safetensors"]
        assert count_macs(blendsearch.load(folder), image) / dense == row["macs_ratio"]
        assert written["val_accuracy"] == row["val_accuracy"]


@pytest.mark.parametrize(
    "spans", [pytest.param({"params": [0.3, 0.6]}, marks=pytest.mark.slow), {"macs": [0.3, 0.6], "params": [0.3, 0.6]}]
)
def test_a_front_is_over_the_costs_whose_budgets_span(
    spans: dict[str, Any], tmp_path: Path, quick: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(quick | {"budget": spans, "search": {"evaluations": 60, "population": 8}}))
    search(path, tmp_path, "spanned")
    found = front(tmp_path, "spanned", capsys)["front"]
    assert len(found) >= 3
    points = [(row["val_loss"], *(row[f"{name}_ratio"] for name in spans)) for row in found]
    for one in points:
        assert not any(other != one and all(a <= b for a, b in zip(other, one, strict=True)) for other in points)
    for name in spans:
        assert all(row[f"{name}_ratio"] <= 0.6 for row in found)
