"""Searches as separate processes, which outlive the server and are found again by the next one.

A folder holds the facts of a process: its command, its output, its id, and a lock that it holds while it runs. The lock
shows that it runs; ids are reused.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from blendsearch.errors import RunError
from blendsearch.runs.checkpoint import write_atomically

FOLDER = ".service"
"""The folder beside the runs; no run can have this name."""

STOP_MARK = "stop"
"""The file in a process's folder that shows that it was asked to stop."""

MAX_OUTPUT_BYTES, MAX_OUTPUT_LINES = 16_000, 40
"""Bytes and lines of the output that are shown."""

MAX_PROCESSES = 4
"""Searches at a time: each uses at least a core, and gigabytes of memory with a large network."""


class ProcessManager:
    """The processes of the runs in one folder, also of earlier servers."""

    def __init__(self, runs: Path) -> None:
        self._folder = runs / FOLDER
        self._lock = threading.Lock()
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, arguments: Sequence[str], config: str | None = None) -> None:
        """Run ``blendsearch ARGUMENTS`` under `name`; the argument ``CONFIG`` becomes a file that holds `config`.

        Raises RunError while a process of that name runs, or `MAX_PROCESSES` others.
        """
        with self._lock:
            self._processes = [process for process in self._processes if process.poll() is None]
            if self.is_running(name):
                raise RunError(f"a process of {name} is running already: wait for it, or stop it")
            if sum(self.is_running(other) for other in self.list_names()) >= MAX_PROCESSES:
                raise RunError(f"{MAX_PROCESSES} processes are running already: wait for one, or stop one")
            place = self.get_folder(name)
            place.mkdir(parents=True, exist_ok=True)
            (place / STOP_MARK).unlink(missing_ok=True)
            if config is not None:
                write_atomically(place / "config.yaml", config)
            words = [str(place / "config.yaml") if word == "CONFIG" else word for word in arguments]
            with open(place / "lock", "w") as lock, open(place / "said.txt", "wb") as output:
                fcntl.flock(lock, fcntl.LOCK_EX)
                process = subprocess.Popen(
                    [sys.executable, *_list_options(), "-m", "blendsearch", *words],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "PYTHONUNBUFFERED": "1"},
                    pass_fds=[lock.fileno()],  # it holds the lock by having the file open
                    start_new_session=True,  # an interrupt on the server's terminal must not reach it
                )
            self._processes.append(process)
            write_atomically(place / "process.json", json.dumps({"pid": process.pid, "words": words}))

    def was_started(self, name: str) -> bool:
        """Return whether a process of that name runs, or has run."""
        return (self.get_folder(name) / "process.json").exists()

    def was_stopped(self, name: str) -> bool:
        """Return whether the last process of that name was asked to stop."""
        return (self.get_folder(name) / STOP_MARK).exists()

    def get_start_time(self, name: str) -> float:
        """Return the time at which the last process of that name was started; infinity without one."""
        try:
            return (self.get_folder(name) / "process.json").stat().st_mtime
        except OSError:
            return float("inf")

    def is_running(self, name: str) -> bool:
        """Return whether a process of that name runs."""
        try:
            with open(self.get_folder(name) / "lock") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    def stop(self, name: str, timeout: float = 10.0) -> bool:
        """Interrupt the process and wait; returns whether it has stopped. Its results are kept.

        Raises RunError when there is none.
        """
        if not self.is_running(name):
            raise RunError(f"no process of this server runs {name}: stop it where it was started")
        place = self.get_folder(name)
        with self._lock:  # a process that is being started has no id in the file yet
            facts = json.loads((place / "process.json").read_text(encoding="utf-8"))
        (place / STOP_MARK).touch()
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(int(facts["pid"]), signal.SIGTERM)
        until = time.monotonic() + timeout
        while self.is_running(name):
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        self.reap()
        return True

    def reap(self) -> None:
        """Collect the processes of this server that have ended."""
        with self._lock:
            self._processes = [process for process in self._processes if process.poll() is None]

    def read_output(self, name: str) -> list[str]:
        """Return the last lines of output, without control characters."""
        try:
            with open(self.get_folder(name) / "said.txt", "rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - MAX_OUTPUT_BYTES))
                text = file.read().decode(errors="replace")
        except OSError:
            return []
        lines = ["".join(letter for letter in line if letter.isprintable()) for line in text.splitlines()]
        return [line for line in lines if line.strip()][-MAX_OUTPUT_LINES:]

    def read_config(self, name: str) -> str | None:
        """Return the config that a process of that name was started with."""
        try:
            return (self.get_folder(name) / "config.yaml").read_text(encoding="utf-8")
        except OSError:
            return None

    def list_names(self) -> list[str]:
        """Return all names that ever had a process, in alphabetical order."""
        if not self._folder.is_dir():
            return []
        return sorted(path.name for path in self._folder.iterdir() if self.was_started(path.name))

    def get_folder(self, name: str) -> Path:
        """Return the folder of that name, where its process may write."""
        return self._folder / name


def _list_options() -> list[str]:
    """List the options of Python that keep modules in the working folder from standing in for installed ones.

    None where blendsearch itself is found there, in a checkout that is not installed.
    """
    return [] if Path(__file__).parents[2] == Path.cwd() else ["-P"]
