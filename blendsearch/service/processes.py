"""Searches as processes of their own: they outlive the page, and are found again by the page after it.

What is known of a process lies in a folder: the command it was given, what it said, its number, and a lock that it
holds as long as it lives. The lock, not the number, says that it lives: numbers are given again to others.
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
"""Beside the runs; no run can have this name."""

MAX_OUTPUT_BYTES, MAX_OUTPUT_LINES = 16_000, 40
"""How much of a process's last words is shown, in bytes and in lines."""

MAX_PROCESSES = 4
"""Searches at once: each takes at least a core, and several gigabytes with a large network."""


class ProcessManager:
    """The processes of the runs in one folder, those of earlier servers too."""

    def __init__(self, runs: Path) -> None:
        self._folder = runs / FOLDER
        self._lock = threading.Lock()
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, arguments: Sequence[str], config: str | None = None) -> None:
        """Run ``blendsearch WORDS`` under `name`; ``CONFIG`` among the words stands for a file that holds `config`.

        Raises RunError while the last process of that name lives, or as many as there may be.
        """
        with self._lock:
            self._processes = [process for process in self._processes if process.poll() is None]
            if self.is_running(name):
                raise RunError(f"{name} is being worked on already: wait for it, or stop it")
            if sum(self.is_running(other) for other in self.list_names()) >= MAX_PROCESSES:
                raise RunError(f"{MAX_PROCESSES} processes are at work already: wait for one, or stop one")
            place = self.get_folder(name)
            place.mkdir(parents=True, exist_ok=True)
            if config is not None:
                write_atomically(place / "config.yaml", config)
            given = [str(place / "config.yaml") if word == "CONFIG" else word for word in arguments]
            with open(place / "lock", "w") as lock, open(place / "said.txt", "wb") as said:
                fcntl.flock(lock, fcntl.LOCK_EX)
                process = subprocess.Popen(
                    [sys.executable, "-m", "blendsearch", *given],
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "PYTHONUNBUFFERED": "1"},
                    pass_fds=[lock.fileno()],  # it holds the lock by having the file open
                    start_new_session=True,  # an interrupt on the server's terminal is not meant for it
                )
            self._processes.append(process)
            write_atomically(place / "process.json", json.dumps({"pid": process.pid, "words": given}))

    def is_running(self, name: str) -> bool:
        """Whether the last process of that name has not ended."""
        try:
            with open(self.get_folder(name) / "lock") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    def stop(self, name: str, timeout: float = 10.0) -> bool:
        """Ask the process to stop as an interrupt would, and wait; whether it has. What it did is kept.

        Raises RunError when there is none.
        """
        if not self.is_running(name):
            raise RunError(f"no process that was started here works on {name}: stop it where it was started")
        facts = json.loads((self.get_folder(name) / "process.json").read_text(encoding="utf-8"))
        with suppress(ProcessLookupError):  # it has ended just now
            os.kill(int(facts["pid"]), signal.SIGTERM)
        until = time.monotonic() + timeout
        while self.is_running(name):
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        self.reap()
        return True

    def reap(self) -> None:
        """Let go of own processes that have ended."""
        with self._lock:
            self._processes = [process for process in self._processes if process.poll() is None]

    def read_output(self, name: str) -> list[str]:
        """The last lines that the process printed, without what moves a cursor."""
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
        """The config that a process of that name was started with."""
        try:
            return (self.get_folder(name) / "config.yaml").read_text(encoding="utf-8")
        except OSError:
            return None

    def list_names(self) -> list[str]:
        """All names that ever had a process, in alphabetical order."""
        if not self._folder.is_dir():
            return []
        return sorted(path.name for path in self._folder.iterdir() if (path / "process.json").exists())

    def get_folder(self, name: str) -> Path:
        """The folder of that name, for what its process writes too."""
        return self._folder / name
