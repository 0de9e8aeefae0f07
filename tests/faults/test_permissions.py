"""Files and folders without permission cost one line, and hide no other run."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blendsearch.cli.main import main
from blendsearch.errors import RunError
from blendsearch.runs.run import check_name

NOBODY = 65534
PLACES = (
    *(".", "run.json", "run.sqlite", "config.yaml", "dense.safetensors", "engine.json", "finished.json", "lock"),
    *("logs", "logs/worker-0.jsonl", "checkpoints"),
)
READING = (["runs"], ["status", "one"], ["front", "one"], ["show", "one", "best"], ["criteria", "--run", "one"])


@pytest.fixture(scope="module")
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="blendsearch-test-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder
        for path in folder.rglob("*"):
            path.chmod(0o755)


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Drop the rights of root, if the tests have them."""
    if os.geteuid():
        yield
        return
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def run_verb(words: list[str], capsys: Any) -> tuple[int, str, str]:
    code = 0
    try:
        with as_nobody():
            main(words)
    except SystemExit as ended:
        code = int(ended.code or 0)
    found = capsys.readouterr()
    return code, found.out, found.err


@pytest.fixture
def runs(open_folder: Path, searched: Path, capsys: Any) -> Iterator[Path]:
    """Runs ``one`` and ``other`` of the user without rights, and one verb of each kind, which imports what it needs."""
    folder = open_folder / "runs"
    for name in ("one", "other"):
        shutil.copytree(searched / "one", folder / name, ignore=shutil.ignore_patterns("*.sqlite-*"))
    if not os.geteuid():
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
    for words in READING:
        main([*words, "--runs", str(searched)])
    capsys.readouterr()
    yield folder
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize("place", PLACES)
def test_reading_a_run_without_permission_costs_one_line(place: str, runs: Path, capsys: Any) -> None:
    (runs / "one" / place).chmod(0)
    for words in READING:
        code, out, error = run_verb([*words, "--runs", str(runs)], capsys)
        lines = [line for line in error.splitlines() if not line.startswith("warning")]
        assert code in (0, 2) and len(lines) == (code == 2), (words, error)
        assert not lines or "one" in lines[0], error
        if words == ["runs"]:
            assert code == 0 and "other" in out and "one" in out


def test_outputs_and_runs_in_a_closed_folder_are_refused_in_one_line(
    runs: Path, open_folder: Path, searched: Path, capsys: Any, tmp_path: Path
) -> None:
    with contextlib.suppress(SystemExit):  # imports what the verbs need
        main(["init", "--out", str(tmp_path / "new.yaml")])
    main(["report", "one", "--runs", str(searched), "--to", str(tmp_path / "out.html")])
    main(["criteria", "--run", "one", "--runs", str(searched), "--map", str(tmp_path / "out.svg")])
    capsys.readouterr()
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    if os.geteuid():
        closed.chmod(0)
    for words in (
        ["runs", "--runs", f"{closed}/runs"],
        ["status", "one", "--runs", f"{closed}/runs"],
        ["search", f"{closed}/config.yaml"],
        ["search", "--name", "x", "--runs", f"{closed}/runs"],
        ["export", "one", "--runs", str(runs), "--to", f"{closed}/sub/out"],
        ["report", "one", "--runs", str(runs), "--to", f"{closed}/sub/out.html"],
        ["criteria", "--run", "one", "--runs", str(runs), "--map", f"{closed}/sub/out.svg"],
        ["init", "--out", f"{closed}/sub/config.yaml"],
    ):
        code, _, error = run_verb(words, capsys)
        assert code == 2 and len(error.splitlines()) == 1, (words, error)
        assert "closed" in error and "ermission" in error, (words, error)


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(open_folder: Path) -> None:
    closed = open_folder / "read-only"
    closed.mkdir()
    closed.chmod(0o555)
    with pytest.MonkeyPatch.context() as patch:
        if not os.geteuid():  # the real user decides, who may write anywhere
            patch.setattr(os, "access", lambda path, mode: Path(path) != closed)
        with pytest.raises(RunError, match="no permission to write to .*read-only; choose another --runs"):
            check_name(closed / "runs", "one")
