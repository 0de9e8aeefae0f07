"""A server that holds half-open connections and event streams: it answers, with one handle per run."""

import json
import os
import shutil
import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("uvicorn")

from serving import TOKEN, served

BEARER = f"Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
HALF_OPEN, STREAMS, RUNS = 300, 50, 4


def find_server(port: int) -> int:
    """Find the process of this machine's user that listens at `port`."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    inode = next(row.split()[9] for row in lines if row.split()[1].endswith(f":{port:04X}") and row.split()[3] == "0A")
    for item in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if os.readlink(item) == f"socket:[{inode}]":
                return int(item.parts[2])
    raise AssertionError("no process listens")


def count_handles(pid: int, file: str) -> dict[str, int]:
    """Count the handles of a process on `file` of each run, by the run's name."""
    found: dict[str, int] = {}
    for item in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            path = Path(os.readlink(item))
            if path.name == file:
                found[path.parent.name] = found.get(path.parent.name, 0) + 1
    return found


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="handles are counted in /proc")
def test_half_open_connections_and_streams_leave_the_list_answered(searched: Path, tmp_path: Path) -> None:
    names = [f"run-{number}" for number in range(RUNS)]
    for name in names:
        shutil.copytree(searched / "one", tmp_path / "runs" / name)
    with served(tmp_path / "runs") as server, ExitStack() as held:
        port = urlsplit(server.url).port or 0

        def connect(data: bytes) -> socket.socket:
            opened = held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            opened.sendall(data)
            return opened

        for _ in range(HALF_OPEN):
            connect(b"GET /api/ru")
        paths = ["events", *(f"runs/{name}/events" for name in names)]
        streams = [
            connect(f"GET /api/{paths[number % len(paths)]} HTTP/1.1\r\n{BEARER}\r\n".encode())
            for number in range(STREAMS)
        ]
        for stream in streams:
            received = b""
            while b"data: " not in received:
                received += stream.recv(65536)
            assert received.startswith(b"HTTP/1.1 200") and b"event: gone" not in received, received[-300:]
        times = []
        for _ in range(10):
            start = time.monotonic()
            assert {row["run"] for row in server.ask("runs")} == set(names)
            times.append(time.monotonic() - start)
        assert sorted(times)[5] < 5  # of a machine with other work
        time.sleep(3)
        pid = find_server(port)
        assert count_handles(pid, "run.sqlite-wal") == dict.fromkeys(names, 1)  # one connection
        # SQLite keeps the file of a closed connection open while another one has locks
        assert max(count_handles(pid, "run.sqlite").values()) <= 2
        held.close()
        end = time.monotonic() + 60
        while count_handles(pid, "run.sqlite"):
            assert time.monotonic() < end
            time.sleep(0.1)
        assert json.dumps(server.ask("runs"))
