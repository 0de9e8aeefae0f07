"""Server-sent events of a run, from before its directory exists until after its search has ended."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from blendsearch.errors import BlendsearchError
from blendsearch.results.follower import Follower
from blendsearch.results.live_messages import EmptyRunState, ProcessOutput, RunNews
from blendsearch.runs.run import open_run
from blendsearch.service.workspace import NotFoundError, Workspace

POLL_SECONDS = 0.2
"""Seconds between two polls of a run; a poll without news takes under a millisecond."""

KEEPALIVE_SECONDS = 15.0
"""Seconds without an event after which a comment keeps the connection alive."""


class RunWatcher:
    """Follows a run as soon as it exists, and the output of its process."""

    def __init__(self, workspace: Workspace, name: str, after: int = 0) -> None:
        self._workspace, self._name, self._after = workspace, name, after
        self._follower: Follower | None = None
        self._reported_state: EmptyRunState | None = None
        self._reported_child: ProcessOutput | None = None

    def close(self) -> None:
        if self._follower is not None:
            self._follower.close()

    def poll(self) -> RunNews:
        """Return the news of the run and of the process that searches it.

        Raises NotFoundError when there is neither a run nor a process that was started for one.
        """
        if self._follower is None and self._workspace.has_run(self._name):
            self._follower = Follower(open_run(self._workspace.runs, self._name), self._after)
        news = RunNews() if self._follower is None else self._follower.poll()
        children = self._workspace.processes
        child = ProcessOutput(lives=children.is_running(self._name), said=tuple(children.read_output(self._name)))
        if self._follower is None:
            news = self._report_empty_state(child)
        if child != self._reported_child:
            self._reported_child, news = child, replace(news, child=child)
        return news

    def _report_empty_state(self, child: ProcessOutput) -> RunNews:
        if not child.lives and not child.said:
            raise NotFoundError(f"no run is called {self._name!r}")
        state = EmptyRunState(state="starting" if child.lives else "failed")
        if state == self._reported_state:
            return RunNews()
        self._reported_state = state
        return RunNews(state=state)


async def stream_run_events(workspace: Workspace, name: str, after: int) -> AsyncIterator[str]:
    """Stream the news of a run, the first at once; ends with ``gone`` when the run cannot be read."""
    watch = RunWatcher(workspace, name, after)
    silent = 0.0
    try:
        while True:
            try:
                news = await asyncio.to_thread(watch.poll)
            except (BlendsearchError, OSError) as error:
                yield f"event: gone\ndata: {json.dumps(' '.join(str(error).split()))}\n\n"
                return
            if news:
                after = max([after, *(() if news.rows is None else news.rows.id)])
                yield f"id: {after}\ndata: {format_compact_json(news.to_dict())}\n\n"
                silent = 0.0
            elif silent > KEEPALIVE_SECONDS:
                yield ": keepalive\n\n"
                silent = 0.0
            await asyncio.sleep(POLL_SECONDS)
            silent += POLL_SECONDS
    finally:
        watch.close()


async def stream_list_events(workspace: Workspace) -> AsyncIterator[str]:
    """Stream the list of runs, at once and after every change."""
    sent: list[dict[str, Any]] | None = None
    silent = 0.0
    while True:
        rows = await asyncio.to_thread(workspace.summarize_runs)
        if rows != sent:
            sent, silent = rows, 0.0
            yield f"data: {format_compact_json(rows)}\n\n"
        elif silent > KEEPALIVE_SECONDS:
            silent = 0.0
            yield ": keepalive\n\n"
        await asyncio.sleep(5 * POLL_SECONDS)
        silent += 5 * POLL_SECONDS


def format_compact_json(facts: Any) -> str:
    """Format as JSON in one line."""
    return json.dumps(facts, separators=(",", ":"), allow_nan=False)
