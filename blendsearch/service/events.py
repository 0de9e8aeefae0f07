"""Sources of events: the list of runs, and the news of a run from before its directory exists."""

import json
from dataclasses import replace
from threading import Lock
from typing import Any, NamedTuple, Protocol

from blendsearch.results.follower import Follower
from blendsearch.results.live_messages import EmptyRunState, ProcessOutput, RunNews, RunState
from blendsearch.results.news_log import NewsLog
from blendsearch.runs.run import open_run
from blendsearch.service.workspace import NotFoundError, Workspace

POLL_SECONDS, REST_SECONDS = 0.2, 1.0
"""Seconds between two polls of a run that is searched, and of one that is not, or of the list."""

MAX_TEXTS = 8
"""Formatted messages of the latest version that are kept for further viewers."""


class RunWatcher:
    """Follows a run as soon as it exists, and the output of its process."""

    def __init__(self, workspace: Workspace, name: str, after: int = 0) -> None:
        self._workspace, self._name, self._after = workspace, name, after
        self._follower: Follower | None = None
        self._stored_state: RunState | None = None
        self._reported_state: RunState | EmptyRunState | None = None
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
        news = self._report_state(self._poll_follower())
        child = self._describe_child()
        if child != self._reported_child:
            self._reported_child, news = child, replace(news, child=child)
        return news

    def _poll_follower(self) -> RunNews:
        """Poll the follower; one that fails is replaced at the next poll, and reports everything again."""
        if self._follower is None:
            return RunNews()
        try:
            return self._follower.poll()
        except Exception:
            self.close()
            self._follower = None
            raise

    def _describe_child(self) -> ProcessOutput:
        children, name = self._workspace.processes, self._name
        return ProcessOutput(
            lives=children.is_running(name),
            said=tuple(children.read_output(name)),
            started=children.was_started(name),
        )

    def _report_state(self, news: RunNews) -> RunNews:
        """Replace the state in `news` by that of run and process together, where this has changed."""
        if isinstance(news.state, RunState):
            self._stored_state = news.state
        state = self._describe_state()
        if state == self._reported_state:
            return replace(news, state=None)
        self._reported_state = state
        return replace(news, state=state)

    def _describe_state(self) -> RunState | EmptyRunState:
        stored, workspace = self._stored_state, self._workspace
        if stored is not None:
            return replace(stored, state=workspace.get_state(self._name, stored.state))
        if not workspace.processes.was_started(self._name):
            raise NotFoundError(f"no run is called {self._name!r}")
        return EmptyRunState(state=workspace.get_state(self._name, None))


class EventText(NamedTuple):
    """A message that brings a viewer to `version`; `last` is the largest id of a network in it, or 0."""

    version: int
    last: int
    text: str


class EventSource(Protocol):
    """What viewers of the same page watch. `poll` and `format` run in threads."""

    @property
    def interval(self) -> float:
        """Seconds until the next poll."""

    def poll(self) -> int:
        """Read changes; returns the version, which grows with each."""

    def format(self, since: int, after: int) -> EventText:
        """Format what is newer than version `since`, for a reader with the ids up to `after`."""

    def close(self) -> None:
        """Release what is open."""


class RunEvents:
    """The news of one run: one store and one poll for all viewers."""

    def __init__(self, workspace: Workspace, name: str) -> None:
        self._watcher, self._log = RunWatcher(workspace, name), NewsLog()
        self._texts: dict[tuple[int, int], EventText] = {}
        self._lock, self._closed, self._active = Lock(), False, True

    @property
    def interval(self) -> float:
        return POLL_SECONDS if self._active else REST_SECONDS

    def poll(self) -> int:
        with self._lock:
            if not self._closed and (news := self._watcher.poll()):
                self._log.add(news)
                self._texts.clear()
                if news.state is not None:
                    self._active = news.state.state in ("running", "starting", "stopping")
            return self._log.version

    def format(self, since: int, after: int) -> EventText:
        with self._lock:
            key = since, 0 if since else after
            if key not in self._texts:
                if len(self._texts) >= MAX_TEXTS:
                    self._texts.clear()
                news = self._log.collect(*key)
                last = 0 if news.rows is None else max(news.rows.id)
                self._texts[key] = EventText(self._log.version, last, format_compact_json(news.to_dict()))
            return self._texts[key]

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._watcher.close()


class ListEvents:
    """The list of runs, whole after every change."""

    interval = REST_SECONDS

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._rows: list[dict[str, Any]] | None = None
        self._event = EventText(0, 0, "")

    def poll(self) -> int:
        rows = self._workspace.summarize_runs()
        if rows != self._rows:
            self._rows = rows
            self._event = EventText(self._event.version + 1, 0, format_compact_json(rows))
        return self._event.version

    def format(self, since: int, after: int) -> EventText:
        return self._event

    def close(self) -> None:
        """Release nothing."""


def format_compact_json(facts: Any) -> str:
    """Format as JSON in one line."""
    return json.dumps(facts, separators=(",", ":"), allow_nan=False)
