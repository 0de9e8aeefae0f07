"""Limits of the server's connections: their number, and the time for the head and the body of a request."""

import asyncio
import json
import logging
import resource
from dataclasses import dataclass, field
from typing import Any, ClassVar

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from blendsearch.service.security import App

MAX_CONNECTIONS = 2048
"""Connections at a time, where the limit of open files allows as many."""

SPARE_FILES = 256
"""Open files that connections leave to runs, processes and pages."""

HEAD_SECONDS, BODY_SECONDS = 10.0, 20.0
"""Seconds that a client has for the request line with the headers, and then for the body."""

READ_SECONDS = 30.0
"""Seconds after which a client that reads nothing of its answer is dropped."""

RETRY_SECONDS = 5
"""Seconds after which a client that was turned away may try again."""


@dataclass
class ConnectionLimits:
    """The limits of one server, and its connections that wait for a part of a request, the longest waiting first."""

    connections: int = MAX_CONNECTIONS
    head_seconds: float = HEAD_SECONDS
    body_seconds: float = BODY_SECONDS
    read_seconds: float = READ_SECONDS
    waiting: dict["LimitedProtocol", None] = field(default_factory=dict)


class LimitedProtocol(H11Protocol):
    """HTTP/1.1 with deadlines for clients, and a bound on connections.

    Where the bound is reached, a new connection takes the place of the one that has waited longest for a part of a
    request; it is refused only where all others are being answered. Thus half-open connections keep out nobody.
    """

    limits: ClassVar[ConnectionLimits]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._phase: Any = None
        self._deadline: asyncio.TimerHandle | None = None
        self._abortion: asyncio.TimerHandle | None = None
        self._received = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections and not self._replace_waiting():
            self._answer(503, "the server has too many connections: try again later")
            return
        self._watch_phase()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._cancel_abortion()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received = True
        super().data_received(data)
        self._watch_phase()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_phase()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._plan_abortion()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._cancel_abortion()
        self._watch_phase()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch_phase()

    def _watch_phase(self) -> None:
        """Start the deadline of the part of a request that the client has to send next."""
        if self.transport.is_closing():
            self._drop()
            return
        phase = self.conn.their_state
        if phase is self._phase:
            return
        self._stop_waiting()
        self._phase = phase
        seconds = {h11.IDLE: self.limits.head_seconds, h11.SEND_BODY: self.limits.body_seconds}.get(phase)
        if seconds is not None:
            self.limits.waiting[self] = None
            self._received = phase is h11.SEND_BODY
            self._deadline = self.loop.call_later(seconds, self._expire)

    def _stop_waiting(self) -> None:
        self.limits.waiting.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self) -> None:
        if self._received and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            part = "headers" if self._phase is h11.IDLE else "body"
            self._answer(408, f"the {part} of the request took too long")
        else:
            self._drop()

    def _replace_waiting(self) -> bool:
        """Close the connection that has waited longest; returns whether there was one."""
        longest = next(iter(self.limits.waiting), None)
        if longest is not None:
            longest._drop()
        return longest is not None

    def _answer(self, status: int, reason: str) -> None:
        """Answer without the application, and close the connection."""
        body = json.dumps({"error": reason}).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        if status == 503:
            headers.append(("retry-after", str(RETRY_SECONDS)))
        for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self._drop()

    def _drop(self) -> None:
        self._stop_waiting()
        self.connections.discard(self)
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._plan_abortion()

    def _plan_abortion(self) -> None:
        """Close the connection, whatever is still to be sent, unless the client reads in time."""
        if self._abortion is None:
            self._abortion = self.loop.call_later(self.limits.read_seconds, self.transport.abort)

    def _cancel_abortion(self) -> None:
        if self._abortion is not None:
            self._abortion.cancel()
            self._abortion = None


def _make_protocol(connection_limits: ConnectionLimits) -> type[LimitedProtocol]:
    class ServerProtocol(LimitedProtocol):
        limits = connection_limits

    return ServerProtocol


def make_server(app: App, limits: ConnectionLimits) -> uvicorn.Server:
    """Make a server of `app`; ``run(sockets=[...])`` serves until it is interrupted."""
    config = uvicorn.Config(
        app,
        http=_make_protocol(limits),
        ws="none",
        lifespan="off",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
    logging.getLogger("uvicorn.error").addFilter(_is_worth_a_line)
    return uvicorn.Server(config)


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Return False for the line that open pages are closed when the server ends."""
    return "timeout graceful shutdown exceeded" not in record.getMessage()


def raise_file_limit() -> int:
    """Raise the limit of open files as far as `MAX_CONNECTIONS` needs it; returns the connections that it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MAX_CONNECTIONS
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(1, allowed - min(SPARE_FILES, allowed // 2))
