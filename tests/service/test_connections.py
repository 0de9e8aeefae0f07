"""Connections that send half of something, hold on, or read nothing: they are closed, and others are answered."""

import json
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")

from blendsearch.cli.main import main
from blendsearch.service import connections
from blendsearch.service.app import make_app
from blendsearch.service.connections import SPARE_FILES, ConnectionLimits, make_server, raise_file_limit
from blendsearch.service.security import Authenticator
from blendsearch.service.workspace import Workspace

TOKEN = "a-token-that-only-tests-know"
BEARER = f"Authorization: Bearer {TOKEN}\r\n"
SOON = 10.0
"""Seconds within which a busy machine has closed what it closes after fractions of a second."""

Opener = Callable[[bytes], socket.socket]


@contextmanager
def open_server(runs: Path, limits: ConnectionLimits, *, keep: bool = False) -> Iterator[Opener]:
    """Serve `runs` in a thread; gives a function that connects and sends. `keep` leaves connections open to the end."""
    app = make_app(Workspace(runs), Authenticator(TOKEN), frozenset({"localhost"}))
    server, listening = make_server(app, limits), socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    opened: list[socket.socket] = []

    def connect(data: bytes) -> socket.socket:
        opened.append(socket.create_connection(listening.getsockname(), timeout=SOON))
        opened[-1].sendall(data)
        return opened[-1]

    try:
        yield connect
    finally:
        if not keep:
            for item in opened:
                item.close()
        server.should_exit = True
        thread.join()
        for item in opened:
            item.close()
        listening.close()


def read_all(connection: socket.socket) -> bytes:
    """Read until the server closes the connection."""
    found = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            found += piece
    return found


def send_until(connection: socket.socket, data: bytes, end: float) -> None:
    """Send `data` again and again until the time `end`."""
    while time.monotonic() < end:
        with suppress(BlockingIOError):
            connection.send(data)
        time.sleep(0.02)


def make_request(path: str, headers: str = "", method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode()


HALVES = {
    "request line": (b"GET /api/ru", "headers"),
    "headers": (b"GET /api/runs HTTP/1.1\r\nHost: local", "headers"),
    "body": (make_request("/api/session", "Content-Length: 40\r\n", "POST") + b'{"token"', "body"),
    "body with token": (make_request("/api/runs", BEARER + "Content-Length: 40\r\n", "POST") + b'{"con', "body"),
}


@pytest.mark.parametrize("half", HALVES)
def test_half_a_request_is_closed(tmp_path: Path, half: str) -> None:
    sent, part = HALVES[half]
    with open_server(tmp_path, ConnectionLimits(head_seconds=0.5, body_seconds=0.5)) as connect:
        answer = read_all(connect(sent))
    assert answer.startswith(b"HTTP/1.1 408") and answer.endswith(
        b'{"error": "the %s of the request took too long"}' % part.encode()
    )


def test_silence_is_closed_without_an_answer(tmp_path: Path) -> None:
    with open_server(tmp_path, ConnectionLimits(head_seconds=0.5)) as connect:
        assert read_all(connect(b"")) == b""


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", HALVES["body"][0]])
def test_a_byte_at_a_time_gains_no_time(tmp_path: Path, start: bytes) -> None:
    with open_server(tmp_path, ConnectionLimits(head_seconds=0.5, body_seconds=0.5)) as connect:
        connection, begun = connect(start), time.monotonic()
        with pytest.raises(ConnectionError):
            send_until(connection, b"x", begun + SOON)


def test_a_body_that_is_not_wanted_is_not_awaited(tmp_path: Path) -> None:
    with open_server(tmp_path, ConnectionLimits(body_seconds=0.5)) as connect:
        answer = read_all(connect(make_request("/api/runs", "Content-Length: 1000\r\n", "POST") + b"{"))
    assert answer.startswith(b"HTTP/1.1 401") and b" 408 " not in answer


def test_requests_in_time_are_answered_on_one_connection(tmp_path: Path) -> None:
    with open_server(tmp_path, ConnectionLimits(head_seconds=1.0, body_seconds=1.0)) as connect:
        connection = connect(b"")
        for _ in range(4):  # longer in all than one of them may take
            time.sleep(0.4)
            connection.sendall(make_request("/api/runs", BEARER))
            answer = b""
            while not answer.endswith(b"[]"):
                answer += connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200")


def test_half_open_connections_keep_out_nobody(tmp_path: Path) -> None:
    with open_server(tmp_path, ConnectionLimits(connections=5, head_seconds=60.0)) as connect:
        held = [connect(b"GET / HT") for _ in range(20)]
        assert [read_all(item) for item in held[:15]] == [b""] * 15  # the oldest make room
        for _ in range(10):
            answer = read_all(connect(make_request("/api/runs", BEARER + "Connection: close\r\n")))
            assert answer.startswith(b"HTTP/1.1 200")
        held[-1].settimeout(0.2)
        with pytest.raises(TimeoutError):
            held[-1].recv(1)


def test_one_connection_too_many_is_refused_while_all_others_are_answered(tmp_path: Path) -> None:
    with open_server(tmp_path, ConnectionLimits(connections=3)) as connect:
        streams = [connect(make_request("/api/events", BEARER)) for _ in range(3)]
        for stream in streams:
            assert stream.recv(20).startswith(b"HTTP/1.1 200")
        answer = read_all(connect(b""))
        assert answer.startswith(b"HTTP/1.1 503") and b"retry-after" in answer.lower()
        assert "too many connections" in json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
        streams[0].close()
        end = time.monotonic() + SOON
        while not read_all(connect(make_request("/api/runs", BEARER + "Connection: close\r\n"))).startswith(
            b"HTTP/1.1 200"
        ):
            assert time.monotonic() < end


def test_a_client_that_reads_nothing_is_dropped(tmp_path: Path) -> None:
    with open_server(tmp_path, ConnectionLimits(read_seconds=0.5)) as connect:
        connection = connect(b"")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        with pytest.raises(ConnectionError):
            send_until(connection, make_request("/pages/style.css") * 50, time.monotonic() + 60 * SOON)


def test_the_limit_of_files_is_raised_or_lowers_that_of_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"soft": 1024, "hard": 65536}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limits["soft"], limits["hard"]))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, pair: limits.update(soft=pair[0]))
    assert raise_file_limit() == connections.MAX_CONNECTIONS
    assert limits["soft"] == connections.MAX_CONNECTIONS + SPARE_FILES
    limits |= {"soft": 512, "hard": 1024}
    assert raise_file_limit() == 1024 - SPARE_FILES and limits["soft"] == 1024


@pytest.mark.parametrize("name", ["http://box", "box:8484", "box.lan.:1", "user@box", "[::1]", "", "a b/c"])
def test_a_name_that_no_request_can_have_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["serve", "--runs", str(tmp_path), "--port", "0", "--allow-host", name])
    assert caught.value.code == 2 and "--allow-host" in capsys.readouterr().err


def test_the_end_of_a_server_with_open_pages_prints_no_traceback(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with open_server(tmp_path, ConnectionLimits(8), keep=True) as connect:
        stream = connect(make_request("/api/events", BEARER))
        assert b"200 OK" in stream.recv(65536)
        # the server ends first, as after Ctrl-C while a page is open
    assert capfd.readouterr().err == ""
