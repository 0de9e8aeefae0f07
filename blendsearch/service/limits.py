"""Limits on what is done at once: event streams, and work that takes long."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, MutableMapping
from functools import partial
from typing import Any, ParamSpec, TypeVar

from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from blendsearch.service.security import Receive, Send

MAX_STREAMS = 256
"""Event streams at a time."""

RETRY = {"retry-after": "5"}

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class StreamLimit:
    """Counts the event streams of a server."""

    def __init__(self, limit: int = MAX_STREAMS) -> None:
        self.limit, self.open = limit, 0


class EventStream(StreamingResponse):
    """A response of server-sent events, or 503 where the limit is reached."""

    def __init__(self, events: AsyncIterator[str], limit: StreamLimit) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._limit = limit

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if self._limit.open >= self._limit.limit:
            reason = f"{self._limit.limit} event streams are open already: close a page, or try again later"
            await JSONResponse({"error": reason}, 503, RETRY)(scope, receive, send)
            return
        self._limit.open += 1
        try:
            await super().__call__(scope, receive, send)
        except asyncio.CancelledError:  # the server ends, and would log a traceback for each open page
            with contextlib.suppress(Exception):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._limit.open -= 1


class WorkLimit:
    """Does work in threads, `at_once` at a time; further `waiting` requests wait, and the next get 503."""

    def __init__(self, name: str, at_once: int, waiting: int) -> None:
        self._name, self._places = name, at_once + waiting
        self._slots = asyncio.Semaphore(at_once)
        self._taken = 0

    async def run(
        self, work: Callable[Parameters, Result], *arguments: Parameters.args, **options: Parameters.kwargs
    ) -> Result:
        """Run `work` in a thread once there is a slot. Raises HTTPException with status 503 when too many wait."""
        if self._taken >= self._places:
            raise HTTPException(503, f"too many {self._name} are being made: try again later", RETRY)
        self._taken += 1
        try:
            async with self._slots:
                return await run_in_threadpool(partial(work, *arguments, **options))
        finally:
            self._taken -= 1
