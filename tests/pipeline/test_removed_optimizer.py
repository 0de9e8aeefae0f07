"""Runs of an optimizer that no longer exists can be read; nothing is searched with it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from blendsearch.cli.main import main
from blendsearch.runs.run import open_run


@pytest.fixture
def old_run(searched: Path, tmp_path: Path) -> Path:
    """The folder of a run that names the surrogate."""
    import shutil

    shutil.copytree(searched, tmp_path / "runs")
    path = tmp_path / "runs" / "one" / "run.json"
    facts = json.loads(path.read_text())
    facts["config"]["search"]["optimizer"] = "surrogate"
    path.write_text(json.dumps(facts))
    return tmp_path / "runs"


def refuse(arguments: list[str], capsys: Any) -> str:
    """Run a verb that must fail with exit code 2; return its only line of errors."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    line: str = capsys.readouterr().err.strip().splitlines()[-1]
    return line


def test_a_run_of_the_surrogate_is_read_but_not_resumed_forked_or_compared(
    old_run: Path, tmp_path: Path, capsys: Any
) -> None:
    where = ["--runs", str(old_run)]
    assert open_run(old_run, "one").config.search.optimizer == "surrogate"
    main(["front", "one", *where])
    main(["show", "one", "best", *where])
    main(["report", "one", *where, "--to", str(tmp_path / "one.html")])
    says = "search.optimizer surrogate was removed in 0.2: use cma"
    assert says in refuse(["fork", "one", *where, "--set", "search.evaluations=40"], capsys)
    assert says in refuse(["resume", "one", *where, "--set", "search.evaluations=40"], capsys)
    assert says in refuse(["compare", "one", *where], capsys)
    assert "Input should be 'auto', 'cma', 'nsga2' or 'random'" in refuse(
        ["fork", "one", *where, "--set", "search.optimizer=annealing"], capsys
    )
    main(["fork", "one", *where, "--name", "two", "--set", "search.optimizer=cma"])


def test_a_new_search_with_the_surrogate_is_refused(tmp_path: Path, quick: dict[str, Any], capsys: Any) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(quick | {"search": {"optimizer": "surrogate"}}))
    line = refuse(["search", str(path), "--runs", str(tmp_path)], capsys)
    assert "search.optimizer surrogate was removed in 0.2: use cma" in line
    assert not [item for item in tmp_path.iterdir() if item.is_dir()]
