"""A run that is moved, deleted or replaced while it is searched stops in one line, and nothing is written elsewhere."""

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import faulty
import pytest
from live_search import LiveSearch, end
from run_files import front, longer, rows

from blendsearch.cli.main import main
from blendsearch.errors import RunError
from blendsearch.runs.checkpoint import save_checkpoint
from blendsearch.runs.store import Store
from blendsearch.runs.worker_logs import WorkerLogs


def count_stored(store: Path) -> int:
    connection = sqlite3.connect(store)
    (count,) = connection.execute("SELECT count(*) FROM evaluations WHERE id > 0").fetchone()
    connection.close()
    return int(count)


def test_a_moved_run_stops_and_resumes_at_its_new_place(
    config_file: Path, quick: dict[str, Any], tmp_path: Path, capsys: Any
) -> None:
    longer(config_file, quick, 24)
    main(["search", str(config_file), "--runs", str(tmp_path), "--name", "whole"])
    search = LiveSearch(tmp_path, config_file)
    process = search.start()
    search.wait_for_evaluations(process, 12)
    moved = tmp_path / "moved"
    search.run.rename(moved)
    search.run.mkdir()  # something else at the old place
    code, line = end(process)
    assert code == 2
    assert f"{search.run / 'run.sqlite'} was deleted or moved while it was in use" in line
    assert not list(search.run.iterdir())
    before = rows(tmp_path, "moved")
    # trainings of the ladder and of the rates are in tables of their own
    ended = [work for work in faulty.counted(tmp_path, "end") if not {"probe", "final"} & set(work.split())]
    main(["resume", "moved", "--runs", str(tmp_path)])
    assert before <= rows(tmp_path, "moved")
    assert len(before) == len(ended), "an evaluation that had ended was lost"
    assert front(tmp_path, "moved", capsys) == front(tmp_path, "whole", capsys)


@pytest.mark.parametrize(
    "fault",
    [
        "folder deleted",
        pytest.param("database unlinked", marks=pytest.mark.slow),
        pytest.param("database replaced", marks=pytest.mark.slow),
    ],
)
def test_a_deleted_or_replaced_run_is_reported_by_its_cause(fault: str, config_file: Path, tmp_path: Path) -> None:
    search = LiveSearch(tmp_path, config_file)
    process = search.start()
    search.wait_for_evaluations(process, 6)
    store = search.run / "run.sqlite"
    if fault == "folder deleted":
        while search.run.exists():  # a file written meanwhile leaves the folder
            shutil.rmtree(search.run, ignore_errors=True)
        expected = f"{search.run} was deleted or moved"
    elif fault == "database unlinked":
        store.unlink()
        expected = f"{store} was deleted or moved"
    else:
        (tmp_path / "other").write_bytes(b"another file")
        (tmp_path / "other").replace(store)
        expected = f"{store} was replaced by another file"
    code, line = end(process)
    assert code == 2
    assert expected in line
    if fault == "folder deleted":
        assert not search.run.exists()
    elif fault == "database unlinked":
        assert not store.exists()
    else:
        assert store.read_bytes() == b"another file"


def test_files_of_a_moved_run_are_not_written_at_its_old_place(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    logs = WorkerLogs(run / "logs")
    logs.write(0, "started")
    with Store(run / "run.sqlite") as store:
        run.rename(tmp_path / "moved")
        with pytest.raises(RunError, match="resume it where it is now"):
            store.add_test("dense", (0.5, 0.5))  # type: ignore[arg-type]
        with pytest.raises(RunError, match="its folder was deleted or moved"):
            save_checkpoint(run / "checkpoints", 1, {})
        assert not run.exists()
        run.mkdir()
        logs.write(0, "evaluated")
        assert not list(run.iterdir())
    assert sorted(path.name for path in (tmp_path / "moved").iterdir())[0] == "logs"
    with Store(tmp_path / "moved" / "run.sqlite", read_only=True) as store:
        assert list(store.read_tests()) == ["dense"]
