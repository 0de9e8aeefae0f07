"""Signals stop every command in one line with exit code 130, also twice at once and at bad moments."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import faulty
import interrupting
import pytest
from faulty_engine import HARNESS
from live_search import LiveSearch, end
from run_files import front, longer, rows

from blendsearch.cli import signals
from blendsearch.cli.main import main


def interrupt(number: str, moment: str, *words: str) -> tuple[int, str]:
    """Run a command that gets two signals at `moment`; see `interrupting`."""
    command = [sys.executable, interrupting.__file__, number, moment, *words]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=restore_signals,  # the tests themselves may run under nohup
    )
    return end(process)


def restore_signals() -> None:
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("number", "moment", "verb", "code"),
    [
        ("SIGINT", "import argparse", "front", 130),
        pytest.param("SIGINT", "import numpy._core._multiarray_umath", "report", 130, marks=pytest.mark.slow),
        pytest.param("SIGINT", "destructor", "export", 130, marks=pytest.mark.slow),
        pytest.param("SIGHUP", "import torch", "compare", 130, marks=pytest.mark.slow),
        ("SIGTERM", "call blendsearch.results.export.export:_write_card", "export", 130),
        pytest.param("SIGINT", "call blendsearch.results.report.report:_render", "report", 130, marks=pytest.mark.slow),
        ("SIGINT", "call uvicorn:Server.run", "serve", 130),
        ("SIGINT", "exit", "front", 0),
    ],
)
def test_two_signals_at_once_end_a_command_in_one_line(
    number: str, moment: str, verb: str, code: int, searched: Path, tmp_path: Path
) -> None:
    words = {
        "front": ["front", "one"],
        "report": ["report", "one", "--to", str(tmp_path / "page.html")],
        "export": ["export", "one", "--to", str(tmp_path / "out")],
        "compare": ["compare", "one", "--seeds", "1"],
        "serve": ["serve", "--port", "0"],
    }[verb]
    found = interrupt(number, moment, *words, "--runs", str(searched))
    more = f"; continue with: blendsearch compare one --runs {searched}" if verb == "compare" else ""
    assert found == (code, f"blendsearch: stopped{more}" if code else "")
    assert list(tmp_path.iterdir()) == []


LOCKED = ("SIGINT", "call blendsearch.runs.run:Run.lock")
STORED = ("SIGHUP", "call blendsearch.pipeline.generational:store_rows")
SAVED = ("SIGINT", "call blendsearch.runs.checkpoint:write_atomically")
ENDING = ("SIGTERM", "call blendsearch.pipeline.loop:save_front_weights")


@pytest.mark.parametrize(
    "moments",
    [[STORED, ENDING], pytest.param([LOCKED, STORED, SAVED, ENDING], marks=pytest.mark.slow)],
    ids=["two moments", "every moment"],
)
def test_a_search_that_is_stopped_at_bad_moments_loses_and_repeats_nothing(
    moments: list[tuple[str, str]], config_file: Path, quick: dict[str, Any], tmp_path: Path, capsys: Any
) -> None:
    longer(config_file, quick, 16)
    runs = tmp_path / "runs"
    main(["search", str(config_file), "--runs", str(tmp_path), "--name", "whole"])
    begin = ["search", str(config_file), "--name", "one", "--runs", str(runs)]
    resume = ["resume", "one", "--runs", str(runs)]
    before = interrupt("SIGINT", "call blendsearch.pipeline.launch:start_engine", *begin)
    again = "no run was made; the same command continues the training of the base network"
    assert before == (130, f"blendsearch: stopped; {again}") and [item.name for item in runs.iterdir()] == [".training"]
    hint = f"blendsearch: stopped; continue with: blendsearch resume one --runs {runs}"
    stored: set[tuple[Any, ...]] = set()
    for number, moment in moments:
        words = resume if (runs / "one").exists() else begin
        assert interrupt(number, moment, *words) == (130, hint)
        assert stored <= rows(runs, "one")
        stored = rows(runs, "one")
    finished = "call blendsearch.cli.search:print_summary"
    found = interrupt("SIGINT", finished, *resume)
    assert found == (
        130,
        f"blendsearch: stopped; run one has finished; show it with: blendsearch front one --runs {runs}",
    )
    assert stored <= rows(runs, "one")
    assert front(runs, "one", capsys) == front(tmp_path, "whole", capsys)


@pytest.mark.slow
def test_a_closed_terminal_stops_a_search_and_nohup_survives_it(config_file: Path, tmp_path: Path) -> None:
    search = LiveSearch(tmp_path, config_file)
    for ignored in (False, True):
        (tmp_path / "log").unlink(missing_ok=True)
        with open(tmp_path / "errors", "w") as errors:
            child, terminal = pty.fork()
            if not child:
                signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
                os.dup2(errors.fileno(), 2)
                words = ["resume", "one"] if ignored else ["search", str(config_file), "--name", "one"]
                environment = {**os.environ, "FAULTS_DIR": str(tmp_path), "TERM": "xterm"}
                os.execve(HARNESS[0], [*HARNESS, *words, "--runs", str(search.runs)], environment)
        os.set_blocking(terminal, False)
        while len(faulty.counted(tmp_path, "end")) < 3:
            drain(terminal)
            time.sleep(0.02)
        os.close(terminal)  # the kernel sends SIGHUP to the session
        _, status = os.waitpid(child, 0)
        lines = (tmp_path / "errors").read_text().splitlines()
        if ignored:
            assert (os.waitstatus_to_exitcode(status), lines) == (0, [])
            assert (search.run / "finished.json").exists()
        else:
            hint = f"blendsearch: stopped; continue with: blendsearch resume one --runs {search.runs}"
            assert (os.waitstatus_to_exitcode(status), lines) == (130, [hint])
    assert faulty.repeated(tmp_path) == 0


def drain(terminal: int) -> None:
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:
        return


@pytest.mark.slow
def test_a_server_that_is_stopped_twice_prints_one_line(searched: Path) -> None:
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        words = [*HARNESS, "serve", "--port", "0", "--json", "--runs", str(searched)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["url"]
        time.sleep(0.5)
        for _ in range(2):
            process.send_signal(number)
        assert end(process) == (130, "blendsearch: stopped")


def test_a_late_second_signal_ends_a_process_that_does_not_stop() -> None:
    code = (
        "import time; from blendsearch.cli import signals; guard = signals.SignalGuard(); guard.install()\n"
        "try: print(flush=True); time.sleep(600)\n"
        "except KeyboardInterrupt: print(flush=True)\n"
        "time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    time.sleep(signals.PATIENCE + 0.5)
    assert process.poll() is None, "a signal that repeats the first one ended the process"
    process.send_signal(signal.SIGTERM)
    assert end(process) == (130, "blendsearch: stopped at once; finished evaluations are stored")
