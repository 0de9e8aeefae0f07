"""A run that goes on with more evaluations, elsewhere, or not at all; and how it is going meanwhile."""

import json
from pathlib import Path
from typing import Any

import pytest
from run_files import front, rows
from verbs import refused, run

from blendsearch.errors import RunError
from blendsearch.runs.run import open_run


def test_a_finished_run_goes_on_with_more_evaluations_and_judges_none_again(
    config_file: Path, tmp_path: Path, capsys: Any
) -> None:
    run("search", tmp_path, config_file, "--name", "one", "--set", "search.evaluations=20")
    before, found = rows(tmp_path, "one"), front(tmp_path, "one", capsys)
    run("resume", tmp_path, "one", "--set", "search.evaluations=36", "--set", "finals.picks=1")
    after = rows(tmp_path, "one")
    assert before < after
    assert len([row for row in after if row[0] == "evaluations"]) == 36 + 1
    assert front(tmp_path, "one", capsys)["front"][0]["val_loss"] <= found["front"][0]["val_loss"]
    held = open_run(tmp_path, "one")
    assert held.finished and held.config.search.evaluations == 36 and held.config.finals.picks == 1
    facts = json.loads((tmp_path / "one" / "run.json").read_text())
    assert facts["changes"][0]["fields"]["search.evaluations"] == [20, 36]
    for change, why in [
        ("seed=4", "its evaluations used the old value"),
        ("budget.macs=0.4", "its evaluations used the old value"),
        ("search.population=12", "its evaluations used the old value"),
        ("fitness.fidelity=raw", "its evaluations used the old value"),
        ("search.evaluations=24", "larger number"),
        ("finals.tuning.epochs=3", "fine-tuned with the old"),
        ("finals.stages=3", "fine-tuned with the old"),
        ("finals.staging.last=0.4", "fine-tuned with the old"),
        ("search.evalutions=99", "did you mean evaluations"),
    ]:
        assert why in refused(capsys, "resume", tmp_path, "one", "--set", change)
    assert rows(tmp_path, "one") == after and open_run(tmp_path, "one").finished


def test_whole_generations_added_later_are_those_of_the_longer_search(
    config_file: Path, tmp_path: Path, capsys: Any
) -> None:
    run("search", tmp_path, config_file, "--name", "long", "--set", "search.evaluations=40")
    sizes = [item["evaluations"] for item in open_run(tmp_path, "long").open_store(read_only=True).read_generations()]
    short = sum(sizes[:2])
    run("search", tmp_path, config_file, "--name", "two", "--set", f"search.evaluations={short}")
    run("resume", tmp_path, "two", "--set", "search.evaluations=40")
    assert front(tmp_path, "two", capsys)["front"] == front(tmp_path, "long", capsys)["front"]


def test_a_search_that_resumes_where_there_is_something_to_resume(
    config_file: Path, tmp_path: Path, capsys: Any
) -> None:
    words = (config_file, "--name", "one", "--or-resume", "--set", "search.evaluations=12")
    run("search", tmp_path, *words)
    found, stored = front(tmp_path, "one", capsys), rows(tmp_path, "one")
    (tmp_path / "one" / "finished.json").unlink()
    run("search", tmp_path, *words)
    assert (front(tmp_path, "one", capsys), rows(tmp_path, "one")) == (found, stored)
    run("search", tmp_path, *words)
    assert "nothing to resume" in capsys.readouterr().err
    assert "needs --name" in refused(capsys, "search", tmp_path, config_file, "--or-resume")


def test_the_status_of_a_run(config_file: Path, tmp_path: Path, capsys: Any) -> None:
    run("search", tmp_path, config_file, "--name", "one", "--set", "search.evaluations=20")

    def status() -> dict[str, Any]:
        capsys.readouterr()
        run("status", tmp_path, "one", "--json")
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    found = status()
    assert (found["state"], found["evaluations"], found["asked"], found["failed"]) == ("finished", 20, 20, 0)
    assert found["workers"] == 1 and 0.2 < found["utilisation"] <= 1 and found["per_minute"] > 0
    assert (found["schedule"], found["retried"], found["seconds_left"]) == ("generational", 0, None)
    lines = [json.loads(line) for line in (tmp_path / "one" / "logs" / "worker-0.jsonl").read_text().splitlines()]
    assert lines[0]["event"] == "started"
    validated = [line for line in lines if line["event"] == "evaluated" and line["split"] == "val"]
    assert len(validated) == 20 + 1 and all(line["loss"] > 0 and line["seconds"] > 0 for line in validated)
    best = min(row["val_loss"] for row in front(tmp_path, "one", capsys)["front"])
    assert found["best"]["val_loss"] == best
    run("status", tmp_path, "one")
    assert "one: finished, 20 of 20 evaluations" in capsys.readouterr().out
    (tmp_path / "one" / "finished.json").unlink()
    assert status()["state"] == "stopped"
    held = open_run(tmp_path, "one")
    with held.lock():
        assert status()["state"] == "running"
        with pytest.raises(RunError, match="another process"), held.lock():
            pass
    assert not held.running
    assert "no run" in refused(capsys, "status", tmp_path, "absent")
