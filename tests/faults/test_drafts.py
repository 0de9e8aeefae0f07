"""Drafts that a killed process left are removed by the next one; those of a live process never."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from live_search import run_command

from blendsearch.results.report.output_file import open_draft
from blendsearch.runs.drafts import open_draft_file, open_draft_folder, remove_abandoned_drafts

HOLD = """
import sys, time
from pathlib import Path
from blendsearch.runs.drafts import open_draft_file, open_draft_folder
with open_draft_folder(Path(sys.argv[1])) as folder, open_draft_file(Path(sys.argv[2])) as file:
    (folder / "part").write_text("half")
    file.write_text("half")
    print(flush=True)
    time.sleep(600)
"""


def list_drafts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if ".draft-" in path.name)


def test_drafts_of_a_killed_process_are_removed_and_those_of_a_live_one_stay(tmp_path: Path) -> None:
    folder, file = tmp_path / "out", tmp_path / "page.html"
    held = [
        subprocess.Popen([sys.executable, "-c", HOLD, folder, file], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in held:
        assert process.stdout is not None and process.stdout.readline()
    dead, live = held
    assert len(list_drafts(tmp_path)) == 4
    dead.send_signal(signal.SIGKILL)
    dead.wait()
    unrelated = tmp_path / ".other.draft-1234"
    unrelated.mkdir()
    for target in (folder, file):
        remove_abandoned_drafts(target)
    assert len(list_drafts(tmp_path)) == 3 and unrelated.is_dir()
    live.send_signal(signal.SIGTERM)  # without a handler: as abrupt as a kill
    live.wait()
    with open_draft_folder(folder) as draft:
        (draft / "whole").touch()
    with open_draft_file(file) as page:
        page.write_text("whole")
    assert list_drafts(tmp_path) == [unrelated.name]
    assert [path.name for path in folder.iterdir()] == ["whole"] and file.read_text() == "whole"


def test_many_writers_of_one_file_leave_one_of_their_texts_and_no_draft(tmp_path: Path) -> None:
    path, errors = tmp_path / "page.html", []

    def write(text: str) -> None:
        try:
            for _ in range(20):
                with open_draft(path) as draft:
                    draft.write_text(text)
        except Exception as error:
            errors.append(error)

    writers = [threading.Thread(target=write, args=(str(number) * 1000,)) for number in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not errors
    assert len(set(path.read_text())) == 1 and len(path.read_text()) == 1000
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_with_the_name_of_a_draft_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / ".out.draft-1").symlink_to(tmp_path / "kept")
    remove_abandoned_drafts(tmp_path / "out")
    assert (tmp_path / "kept" / "file").exists()


@pytest.mark.slow
def test_the_draft_of_a_killed_export_is_removed_by_the_next(searched: Path, tmp_path: Path) -> None:
    code = (
        "import os, sys; from blendsearch.results.export import export as module; "
        "module._write_card = lambda *facts: os.kill(os.getpid(), 9); "
        "from blendsearch.cli.main import main; main()"
    )
    words = ["export", "one", "--runs", str(searched), "--to", str(tmp_path / "out")]
    killed = subprocess.run([sys.executable, "-c", code, *words], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list_drafts(tmp_path)) == 1 and not (tmp_path / "out").exists()
    assert run_command(*words) == (0, "")
    assert list_drafts(tmp_path) == [] and (tmp_path / "out" / "weights.safetensors").exists()
