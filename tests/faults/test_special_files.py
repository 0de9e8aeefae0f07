"""Pipes, devices and folders in the place of files that a verb or a search writes."""

import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from damages import restore_run
from golden.cases import RUNS

from blendsearch.cli.main import main
from blendsearch.runs.array_checkpoint import load_array_checkpoint, save_array_checkpoint
from blendsearch.runs.checkpoint import load_checkpoint, save_checkpoint

NAMED_OUTPUTS = {
    "front one --out OUT": "out.svg",
    "report one --to OUT": "out.html",
    "criteria --run one --map OUT": "out.png",
    "export one --to OUT": "out",
    "init --out OUT": "out.yaml",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    restore_run(RUNS / "digits", folder / "one")
    return folder


def run_main(words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    try:
        main(words.split())
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    return code, capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
@pytest.mark.parametrize("words", NAMED_OUTPUTS)
def test_a_special_file_as_output_is_refused_and_stays(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, kind: str
) -> None:
    path = tmp_path / NAMED_OUTPUTS[words]
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    else:
        path.symlink_to("/dev/full")
    before = path.lstat()
    with_runs = "" if words.startswith("init") else f" --runs {runs}"
    code, lines = run_main(words.replace("OUT", str(path)) + with_runs, capsys)
    assert code == 2 and len(lines) == 1 and str(path) in lines[0]
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_device_as_output_of_the_schema_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, (line,) = run_main("schema --out /dev/full", capsys)
    assert code == 2 and "/dev/full cannot be written" in line


@pytest.mark.skipif(sys.platform != "linux", reason="no /dev/fd")
def test_the_schema_can_be_written_to_an_open_descriptor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open(tmp_path / "schema.json", "w", encoding="utf-8") as file:
        assert run_main(f"schema --out /dev/fd/{file.fileno()}", capsys) == (0, [])
    assert "properties" in (tmp_path / "schema.json").read_text()


def test_folders_with_the_names_of_old_checkpoints_stay_and_stop_no_search(tmp_path: Path) -> None:
    folder, reports = tmp_path / "checkpoints", list[str]()
    for name in ("generation-00000.json", "arrays-00000.safetensors"):
        (folder / name / "inside").mkdir(parents=True)
    for number in range(1, 6):
        save_array_checkpoint(folder, number, {"step": number}, {"x": np.full(2, number)})
    found = load_array_checkpoint(folder, reports.append)
    assert found is not None and found[0] == {"step": 5} and found[1]["x"].tolist() == [5, 5] and not reports
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {
        "generation-00000.json",
        "arrays-00000.safetensors",
    }


def test_a_folder_with_the_name_of_the_newest_checkpoint_is_reported_and_skipped(tmp_path: Path) -> None:
    reports: list[str] = []
    save_checkpoint(tmp_path, 1, {"generation": 1})
    (tmp_path / "generation-00002.json").mkdir()
    assert load_checkpoint(tmp_path, reports.append) == {"generation": 1}
    (line,) = reports
    assert "generation-00002.json is damaged" in line and "skipped" in line
