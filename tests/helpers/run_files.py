"""Read and write the files of a run in tests."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import yaml

from blendsearch.cli.main import main
from blendsearch.runs.records import Evaluation
from blendsearch.runs.run import Run


def front(runs: Path, name: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    main(["front", name, "--runs", str(runs), "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return {key: found[key] for key in ("finished", "dense", "baselines", "front")}


def rows(runs: Path, name: str) -> set[tuple[Any, ...]]:
    """Read every evaluation, fine-tune and test from the store."""
    path = runs / name / "run.sqlite"
    if not path.exists():
        return set()
    found: set[tuple[Any, ...]] = set()
    connection = sqlite3.connect(path)
    for table in ("evaluations", "finals", "tests"):
        found |= {(table, *row) for row in connection.execute(f"SELECT * FROM {table}")}
    connection.close()
    return found


def longer(config: Path, quick: dict[str, Any], evaluations: int) -> None:
    quick["search"]["evaluations"] = evaluations
    quick["finals"] = {"picks": 1, "tuning": {"epochs": 0.3}}
    config.write_text(yaml.safe_dump(quick))


def journal(run: Run) -> list[tuple[Any, ...]]:
    with run.open_store(read_only=True) as store:
        found = [(row.id, row.digest, row.loss, row.failure) for row in store.read_evaluations() if row.id]
    return found


def row(number: int, loss: float | None = 0.5) -> Evaluation:
    return Evaluation(number, f"d{number}", b"\x01", "raw", 1, 0, "evolved", "{}", 10, 20, loss, 0.1, 0.0, "")
