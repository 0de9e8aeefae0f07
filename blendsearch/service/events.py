"""What a page hears of one run: from before its directory is there until after its search has ended."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from blendsearch.errors import BlendsearchError
from blendsearch.results.follower import Follower
from blendsearch.runs.run import open_run
from blendsearch.service.workspace import NotFoundError, Workspace

POLL_SECONDS = 0.2
"""Seconds between two looks at a run; a look that finds nothing costs under a millisecond."""

KEEPALIVE_SECONDS = 15.0
"""Seconds of silence after which the other side is shown that there is still somebody."""


class RunWatcher:
    """`inspect.Follower` of a run, as soon as there is one to follow, and beside it what its process says."""

    def __init__(self, workspace: Workspace, name: str, after: int = 0) -> None:
        self._workspace, self._name, self._after = workspace, name, after
        self._follower: Follower | None = None
        self._reported: dict[str, Any] = {}

    def close(self) -> None:
        if self._follower is not None:
            self._follower.close()

    def poll(self) -> dict[str, Any]:
        """What `Follower.news` tells, with ``child``: whether a process of this server works on it, and its last lines.

        Raises RunError when there is neither a run nor a process that was to make one.
        """
        if self._follower is None and self._workspace.has_run(self._name):
            self._follower = Follower(open_run(self._workspace.runs, self._name), self._after)
        news = {} if self._follower is None else self._follower.poll()
        children = self._workspace.processes
        lives = children.is_running(self._name)
        child = {"lives": lives, "said": children.read_output(self._name)}
        if self._follower is None:
            if not lives and not child["said"]:
                raise NotFoundError(f"no run is called {self._name!r}")
            news["state"] = {"state": "starting" if lives else "failed", "evaluations": 0}
            if self._reported.get("state") == news["state"]:
                del news["state"]
            else:
                self._reported["state"] = news["state"]
        if self._reported.get("child") != child:
            self._reported["child"] = news["child"] = child
        return news


async def stream_run_events(workspace: Workspace, name: str, after: int) -> AsyncIterator[str]:
    """The news of a run as server-sent events, the first at once; ends with ``gone`` when it cannot be read."""
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
                after = max([after, *news.get("rows", {}).get("id", ())])
                yield f"id: {after}\ndata: {format_compact_json(news)}\n\n"
                silent = 0.0
            elif silent > KEEPALIVE_SECONDS:
                yield ": still here\n\n"
                silent = 0.0
            await asyncio.sleep(POLL_SECONDS)
            silent += POLL_SECONDS
    finally:
        watch.close()


async def stream_list_events(workspace: Workspace) -> AsyncIterator[str]:
    """The list of runs as server-sent events, whenever it has changed."""
    told: list[dict[str, Any]] | None = None
    silent = 0.0
    while True:
        rows = await asyncio.to_thread(workspace.summarize_runs)
        if rows != told:
            told, silent = rows, 0.0
            yield f"data: {format_compact_json(rows)}\n\n"
        elif silent > KEEPALIVE_SECONDS:
            silent = 0.0
            yield ": still here\n\n"
        await asyncio.sleep(5 * POLL_SECONDS)
        silent += 5 * POLL_SECONDS


def format_compact_json(facts: Any) -> str:
    """JSON in one line."""
    return json.dumps(facts, separators=(",", ":"), allow_nan=False)
