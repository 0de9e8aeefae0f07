"""Feeds: one poll for all viewers of a run, and one for those of the list, while there are viewers."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from blendsearch.errors import BlendsearchError
from blendsearch.results.listing import DAMAGE
from blendsearch.service.events import EventSource, ListEvents, RunEvents
from blendsearch.service.workspace import NotFoundError, Workspace

KEEPALIVE_SECONDS = 15.0
"""Seconds without an event after which a comment keeps the connection alive."""


MAX_FAILURES = 3
"""Polls in a row that may fail before a stream ends; another process may just replace a file."""


class Feed:
    """Polls a source until it ends or the last viewer leaves, and wakes the viewers after each change."""

    def __init__(self, source: EventSource) -> None:
        self.source = source
        self.viewers, self.version = 0, 0
        self.error: str | None = None
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._poll())

    async def wait_for_news(self, seen: int, seconds: float) -> bool:
        """Wait for a version after `seen`, or the end of the source; returns whether there is one after so long."""
        try:
            async with asyncio.timeout(seconds):
                while self.version <= seen and self.error is None:
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def stop(self) -> None:
        """Stop polling, and close the source once a poll that runs has ended."""
        self._task.cancel()
        asyncio.get_running_loop().run_in_executor(None, self.source.close)

    async def _poll(self) -> None:
        failures = 0
        while self.error is None:
            try:
                version = await asyncio.to_thread(self.source.poll)
            except NotFoundError as error:
                self._end(error)
            except (BlendsearchError, *DAMAGE) as error:
                failures += 1
                if failures >= MAX_FAILURES:
                    self._end(error)
            else:
                failures = 0
                if version != self.version:
                    self.version = version
                    self._wake()
            await asyncio.sleep(self.source.interval)

    def _end(self, error: Exception) -> None:
        """Wake the viewers for the last time, with the reason in one line."""
        if isinstance(error, BlendsearchError):
            self.error = " ".join(str(error).split())
        else:
            logging.getLogger("uvicorn.error").error("a run cannot be followed", exc_info=error)
            self.error = f"the run is damaged ({type(error).__name__}): restore it from a copy"
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class Feeds:
    """The feeds that have viewers, by the name of the run; the empty name is the list of runs."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._feeds: dict[str, Feed] = {}

    def stream_run(self, name: str, after: int) -> AsyncIterator[str]:
        """Stream the news of a run, the first at once; ends with ``gone`` when the run cannot be read."""
        return self._stream(name, lambda: RunEvents(self._workspace, name), after)

    def stream_list(self) -> AsyncIterator[str]:
        """Stream the list of runs, at once and after every change."""
        return self._stream("", lambda: ListEvents(self._workspace), None)

    async def _stream(self, name: str, make: Callable[[], EventSource], after: int | None) -> AsyncIterator[str]:
        async with self._join(name, make) as feed:
            seen = 0
            while True:
                if not await feed.wait_for_news(seen, KEEPALIVE_SECONDS):
                    yield ": keepalive\n\n"
                elif feed.version > seen:
                    event = await asyncio.to_thread(feed.source.format, seen, after or 0)
                    seen = event.version
                    if after is not None:
                        after = max(after, event.last)
                    yield (f"id: {after}\n" if after is not None else "") + f"data: {event.text}\n\n"
                else:
                    yield f"event: gone\ndata: {json.dumps(feed.error)}\n\n"
                    return

    @asynccontextmanager
    async def _join(self, name: str, make: Callable[[], EventSource]) -> AsyncIterator[Feed]:
        feed = self._feeds.get(name)
        if feed is None or feed.error is not None:
            feed = self._feeds[name] = Feed(make())
        feed.viewers += 1
        try:
            yield feed
        finally:
            feed.viewers -= 1
            if not feed.viewers:
                feed.stop()
                if self._feeds.get(name) is feed:
                    del self._feeds[name]
