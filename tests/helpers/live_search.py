"""A search in a process of its own, with slow evaluations that are logged, for tests that disturb it."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import faulty
from faulty_engine import HARNESS


class LiveSearch:
    """The search ``one`` in ``folder/runs``; its evaluations are logged in `folder`."""

    def __init__(self, folder: Path, config: Path) -> None:
        self.folder, self.config = folder, config
        self.runs = folder / "runs"
        self.run = self.runs / "one"
        (folder / "plan.json").write_text('{"*": "slow"}')

    def start(self, *words: str, **options: Any) -> "subprocess.Popen[str]":
        """Start the search, or another command."""
        command = words or ("search", str(self.config), "--name", "one")
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE} | options
        return subprocess.Popen(
            [*HARNESS, *command, "--runs", str(self.runs)],
            text=True,
            env={**os.environ, "FAULTS_DIR": str(self.folder), "OMP_NUM_THREADS": "1"},
            **streams,
        )

    def wait_for_evaluations(self, process: "subprocess.Popen[str]", count: int) -> None:
        """Wait until `count` evaluations have ended since the start of the test."""
        while process.poll() is None and len(faulty.counted(self.folder, "end")) < count:
            time.sleep(0.02)
        assert process.poll() is None, "the search was over too early"


def end(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Wait for the end of a process; return its exit code and its one line on standard error, or an empty one."""
    _, errors = process.communicate(timeout=120)
    assert "Traceback" not in errors and "Exception ignored" not in errors, errors
    assert len(errors.splitlines()) <= 1, errors
    return process.returncode, errors.strip()


def run_command(*words: str, **options: Any) -> tuple[int, str]:
    """Run blendsearch to its end; see `end`."""
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE} | options
    return end(subprocess.Popen([sys.executable, "-m", "blendsearch", *words], text=True, **streams))
