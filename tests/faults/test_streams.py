"""Output without a reader, on a full disk, or closed ends a command in at most one line and loses nothing."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from faulty_engine import HARNESS
from live_search import LiveSearch, end
from run_files import front, longer, rows

from blendsearch.cli.endings import describe_ending
from blendsearch.cli.main import main
from blendsearch.cli.streams import OutputLost, StandardStream


def open_pipe_without_reader() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def list_reading_verbs(runs: Path, folder: Path) -> list[list[str]]:
    verbs = [
        ["--help"],
        ["runs"],
        ["runs", "--json"],
        ["front", "one"],
        ["front", "one", "--json"],
        ["show", "one", "best"],
        ["status", "one"],
        ["criteria"],
        ["criteria", "--json"],
        ["report", "one", "--to", str(folder / "page.html")],
    ]
    return [verb if verb == ["--help"] else [*verb, "--runs", str(runs)] for verb in verbs]


def run_forked(words: list[str], output: int, errors: Path) -> int:
    """Run a command in a fork of this process, which has imported everything; return its exit code."""
    child = os.fork()
    if not child:
        code = 99
        try:
            with open(errors, "w") as file:
                os.dup2(output, 1)
                os.dup2(file.fileno(), 2)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            sys.argv = ["blendsearch", *words]
            main(words)
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            sys.stdout.flush()  # as the interpreter does when it ends
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_reading_verbs_end_quietly_without_a_reader_and_in_one_line_on_a_full_disk(
    searched: Path, tmp_path: Path, capsys: Any
) -> None:
    gone, full = open_pipe_without_reader(), os.open("/dev/full", os.O_WRONLY)
    main(["front", "one", "--runs", str(searched)])  # imports everything once
    before = front(searched, "one", capsys)
    for words in list_reading_verbs(searched, tmp_path):
        errors = tmp_path / "errors"
        assert (run_forked(words, gone, errors), errors.read_text()) == (141, ""), words
        assert run_forked(words, full, errors) == 2, words
        (line,) = errors.read_text().splitlines()
        assert line.startswith("blendsearch: standard output cannot be written (No space left on device)")
    os.close(gone)
    os.close(full)
    assert (tmp_path / "page.html").stat().st_size > 1000, "the page was written before its sentences were printed"
    assert front(searched, "one", capsys) == before


@pytest.mark.parametrize(
    ("run", "closed", "code"), [("one", "<&- >&-", 0), ("absent", "2>&-", 2), ("one", "<&- >&- 2>&-", 0)]
)
def test_closed_streams_change_no_exit_code(run: str, closed: str, code: int, searched: Path) -> None:
    command = " ".join([sys.executable, "-m", "blendsearch", "status", run, "--runs", str(searched), closed])
    found = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert found.returncode == code
    assert "Traceback" not in found.stderr and "blendsearch:" not in found.stdout


@pytest.mark.slow
def test_a_search_without_a_reader_stops_in_one_line_and_resumes(
    config_file: Path, quick: dict[str, Any], tmp_path: Path, capsys: Any
) -> None:
    longer(config_file, quick, 24)
    main(["search", str(config_file), "--runs", str(tmp_path), "--name", "whole"])
    search = LiveSearch(tmp_path, config_file)
    process = search.start("search", str(config_file), "--name", "one", "--json", stdout=subprocess.PIPE)
    assert process.stdout is not None
    search.wait_for_evaluations(process, 4)
    process.stdout.close()
    process.stdout = None
    hint = f"continue with: blendsearch resume one --runs {search.runs}"
    assert end(process) == (141, f"blendsearch: stopped: the reader of the output is gone; {hint}")
    stored = rows(search.runs, "one")
    assert stored
    with open("/dev/full", "w") as full:
        code, line = end(search.start("resume", "one", stdout=full))
    assert code == 2 and line.endswith(hint) and "No space left on device" in line
    assert stored <= rows(search.runs, "one")
    gone = open_pipe_without_reader()
    code, _ = end(subprocess.Popen([*HARNESS, "--help"], stdout=gone, stderr=subprocess.PIPE, text=True))
    assert code == 141
    main(["resume", "one", "--runs", str(search.runs)])
    assert front(search.runs, "one", capsys) == front(tmp_path, "whole", capsys)


class Failing:
    """A stream whose writes fail."""

    def __init__(self, number: int, *, terminal: bool) -> None:
        self._number, self._terminal = number, terminal

    def isatty(self) -> bool:
        return self._terminal

    def fileno(self) -> int:
        raise OSError

    def write(self, text: str) -> int:
        raise OSError(self._number, os.strerror(self._number))


def test_output_fails_once_and_error_output_and_lost_terminals_never() -> None:
    output = StandardStream(Failing(errno.EPIPE, terminal=False), required=True)  # type: ignore[arg-type]
    with pytest.raises(OutputLost):
        output.write("line")
    assert output.write("line") == 4
    for number, terminal, required in ((errno.EPIPE, False, False), (errno.EIO, True, True)):
        stream = StandardStream(Failing(number, terminal=terminal), required=required)  # type: ignore[arg-type]
        assert stream.write("line") == 4


def test_endings_are_one_line() -> None:
    def recurse() -> None:
        recurse()

    def leave() -> None:
        raise SystemExit(3)

    for function, text in ((recurse, "nested too deeply in"), (leave, "sys.exit(3) was called in")):
        with pytest.raises((RecursionError, SystemExit)) as caught:
            function()
        ending = describe_ending(caught.value, "continue with: blendsearch resume one")
        assert ending is not None and ending.code == 1 and text in ending.line
        assert ending.line.endswith("; continue with: blendsearch resume one") and "\n" not in ending.line
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes")):
        ending = describe_ending(error, "")
        assert ending is not None and ending.line.startswith("out of memory")
    assert describe_ending(RuntimeError("a bug"), "") is None


def test_an_error_of_the_operating_system_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Permission denied") as caught:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path / "run.json"))
    ending = describe_ending(caught.value, "continue with: blendsearch resume one")
    assert ending is not None and ending.code == 2
    assert ending.line == f"{tmp_path}/run.json: Permission denied; continue with: blendsearch resume one"


@pytest.mark.parametrize("code", [0, 3])
def test_user_defined_code_that_exits_is_named(
    code: int, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / f"leaving_{code}.py").write_text(f"def make():\n    raise SystemExit({code})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    changes = ["--set", "model.arguments={}", "--set", f"model.factory=leaving_{code}:make"]
    with pytest.raises(SystemExit) as ended:
        main(["search", str(config_file), "--runs", str(tmp_path / "runs"), *changes])
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 1
    assert f"blendsearch: sys.exit({code}) was called in {tmp_path}" in line and line.endswith("nothing was stored")
    assert not (tmp_path / "runs").exists()
