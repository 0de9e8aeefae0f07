"""Watchdog of a local Ray cluster: kills the processes of the cluster after its parent process is gone.

Ray's agents outlive a killed driver by a minute. This file runs as a script in its own session and imports the standard
library only. It needs Linux's ``/proc``.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

POLL_SECONDS = 0.5
"""Interval at which the parent process, and then the processes of the cluster, are looked up."""

SWEEPS = 6
"""Number of passes over the processes: a dying process may have started another one."""


def start_watchdog() -> "subprocess.Popen[bytes] | None":
    """Start the watchdog of clusters that this process starts from now on; None where there is no ``/proc``."""
    if not sys.executable or not Path("/proc/self/fd").exists():
        return None
    nowhere = subprocess.DEVNULL
    command = [sys.executable, "-I", "-S", __file__, str(os.getpid())]
    return subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)


def watch(parent: int) -> None:
    """Wait until `parent` is gone, then kill all processes of its cluster."""
    started_at = read_start_time(os.getpid())
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    for _ in range(SWEEPS):
        for process in find_cluster_processes(parent, started_at):
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(POLL_SECONDS)


def find_cluster_processes(parent: int, started_at: int) -> Iterator[int]:
    """Find the processes that started after `started_at` and write to logs of a cluster started by `parent`.

    Their parents may be gone, and they overwrite their command lines and environments; the open logs remain. Ray names
    the folder of a cluster by the process that started it.
    """
    log = re.compile(rf"/session_[\d_-]+_{parent}/")
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):  # it has ended, or belongs to another user
                if read_start_time(int(entry.name)) >= started_at and any(map(log.search, _iter_written(entry))):
                    yield int(entry.name)


def read_start_time(process: int) -> int:
    """Return the time at which a process started, in clock ticks since boot."""
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])


def _iter_written(entry: Path) -> Iterator[str]:
    for link in (entry / "fd").iterdir():
        with suppress(OSError):
            if link.lstat().st_mode & 0o200:  # open for writing
                yield os.readlink(link)


if __name__ == "__main__":
    watch(int(sys.argv[1]))
