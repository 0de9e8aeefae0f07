"""A search ends with trained networks, at a learning rate that short trainings found."""

import json
from pathlib import Path
from typing import Any

import yaml

from blendsearch.cli.main import main
from blendsearch.runs.run import open_run


def search(config_file: Path, quick: dict[str, Any], runs: Path, *words: str) -> None:
    finals = {"tuning": {"epochs": 1}, "probe": {"rates": [0.01, 0.1], "epochs": 0.5}}
    config_file.write_text(yaml.safe_dump(quick | {"finals": finals, "search": {"evaluations": 12, "population": 8}}))
    main(["search", str(config_file), "--runs", str(runs), "--name", "one", *words])


def test_a_search_ends_with_trained_networks_by_default(
    config_file: Path, quick: dict[str, Any], tmp_path: Path, capsys: Any
) -> None:
    search(config_file, quick, tmp_path, "--json")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (rate,) = [line for line in lines if line.get("event") == "rate"]
    assert set(rate["losses"]) == {"0.01", "0.1"}
    assert rate["losses"][f"{rate['rate']:g}"] == min(rate["losses"].values())
    run = open_run(tmp_path, "one")
    assert run.config.finals.picks == 1 and run.config.finals.tuning.rate == "auto"
    with run.open_store(read_only=True) as store:
        finals, probes = store.read_finals(), store.read_probes()
    assert len(finals) >= 2 and sorted(item.fidelity for item in probes) == ["probe 0.01", "probe 0.1"]
    assert not (run.path / "training").exists()
    main(["export", "one", "--pick", "best", "--to", str(tmp_path / "out"), "--runs", str(tmp_path), "--json"])
    exported = json.loads(capsys.readouterr().out)
    best = min(finals, key=lambda item: (item.error, item.loss))
    assert exported["fidelity"] == "final" and abs(exported["val_loss"] - best.loss) < 1e-4
    main(["front", "one", "--runs", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "after training" in printed and "before training" not in printed
    # the stored probes are used again where another seed is trained
    (run.path / "finished.json").unlink()
    main(["resume", "one", "--runs", str(tmp_path), "--set", "finals.seeds=2", "--json"])
    with run.open_store(read_only=True) as store:
        assert len(store.read_finals()) == 2 * len(finals) and store.read_probes() == probes


def test_no_finals_end_a_search_earlier(config_file: Path, quick: dict[str, Any], tmp_path: Path) -> None:
    search(config_file, quick, tmp_path, "--no-finals")
    with open_run(tmp_path, "one").open_store(read_only=True) as store:
        assert not store.read_finals() and not store.read_probes() and store.read_tests()
