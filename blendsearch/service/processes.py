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

SAID, LINES = 16_000, 40
"""How much of a process's last words is shown, in bytes and in lines."""

MOST = 4
"""Searches at once: each takes at least a core, and several gigabytes with a large network."""


class Children:
    """The processes of the runs in one folder, those of earlier servers too."""

    def __init__(self, runs: Path) -> None:
        self._folder = runs / FOLDER
        self._starting = threading.Lock()
        self._own: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, words: Sequence[str], config: str | None = None) -> None:
        """Run ``blendsearch WORDS`` under `name`; ``CONFIG`` among the words stands for a file that holds `config`.

        Raises RunError while the last process of that name lives, or as many as there may be.
        """
        with self._starting:
            self._own = [process for process in self._own if process.poll() is None]
            if self.lives(name):
                raise RunError(f"{name} is being worked on already: wait for it, or stop it")
            if sum(self.lives(other) for other in self.names()) >= MOST:
                raise RunError(f"{MOST} processes are at work already: wait for one, or stop one")
            place = self.place(name)
            place.mkdir(parents=True, exist_ok=True)
            if config is not None:
                write_atomically(place / "config.yaml", config)
            given = [str(place / "config.yaml") if word == "CONFIG" else word for word in words]
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
            self._own.append(process)
            write_atomically(place / "process.json", json.dumps({"pid": process.pid, "words": given}))

    def lives(self, name: str) -> bool:
        """Whether the last process of that name has not ended."""
        try:
            with open(self.place(name) / "lock") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    def stop(self, name: str, patience: float = 10.0) -> bool:
        """Ask the process to stop as an interrupt would, and wait; whether it has. What it did is kept.

        Raises RunError when there is none.
        """
        if not self.lives(name):
            raise RunError(f"no process that was started here works on {name}: stop it where it was started")
        facts = json.loads((self.place(name) / "process.json").read_text(encoding="utf-8"))
        with suppress(ProcessLookupError):  # it has ended just now
            os.kill(int(facts["pid"]), signal.SIGTERM)
        until = time.monotonic() + patience
        while self.lives(name):
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        self.reap()
        return True

    def reap(self) -> None:
        """Let go of own processes that have ended."""
        with self._starting:
            self._own = [process for process in self._own if process.poll() is None]

    def said(self, name: str) -> list[str]:
        """The last lines that the process printed, without what moves a cursor."""
        try:
            with open(self.place(name) / "said.txt", "rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - SAID))
                text = file.read().decode(errors="replace")
        except OSError:
            return []
        lines = ["".join(letter for letter in line if letter.isprintable()) for line in text.splitlines()]
        return [line for line in lines if line.strip()][-LINES:]

    def config(self, name: str) -> str | None:
        """The config that a process of that name was started with."""
        try:
            return (self.place(name) / "config.yaml").read_text(encoding="utf-8")
        except OSError:
            return None

    def names(self) -> list[str]:
        """All names that ever had a process, in alphabetical order."""
        if not self._folder.is_dir():
            return []
        return sorted(path.name for path in self._folder.iterdir() if (path / "process.json").exists())

    def place(self, name: str) -> Path:
        """The folder of that name, for what its process writes too."""
        return self._folder / name
