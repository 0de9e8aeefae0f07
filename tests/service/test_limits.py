"""One poll and one store per run for all viewers, work only for what changed, and bounds on what is made at once."""

import asyncio
import json
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
from starlette.exceptions import HTTPException

from blendsearch.errors import RunError
from blendsearch.results import listing
from blendsearch.results.follower import Follower
from blendsearch.results.listing import RunLister
from blendsearch.results.news_log import NewsLog
from blendsearch.runs.run import open_run
from blendsearch.runs.store import Store
from blendsearch.service.events import EventText
from blendsearch.service.feeds import MAX_FAILURES, Feeds
from blendsearch.service.limits import EventStream, StreamLimit, WorkLimit
from blendsearch.service.workspace import Workspace


@pytest.fixture
def runs(searched: Path, tmp_path: Path) -> Path:
    """Copy the run ``one``, as if it had not finished."""
    shutil.copytree(searched, tmp_path / "runs")
    (tmp_path / "runs" / "one" / "finished.json").unlink()
    return tmp_path / "runs"


def count_handles(path: Path) -> int:
    """Count the handles that this process has on a file."""
    found = 0
    for item in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found += Path(os.readlink(item)) == path
    return found


def add_row(runs: Path, id: int) -> None:
    with Store(runs / "one" / "run.sqlite") as store:
        row = store.read_evaluations()[-1]
        store.add(row._replace(id=id, digest=f"{id:064x}"))


def parse_event(text: str) -> Any:
    return json.loads(text.partition("data: ")[2])


async def read_until(events: AsyncIterator[str], holds: Callable[[Any], bool]) -> Any:
    """Merge events until the result `holds`."""
    news: dict[str, Any] = {}
    async with asyncio.timeout(60):
        async for text in events:
            if "data: " in text:
                news |= parse_event(text)
            if holds(news):
                return news
    raise AssertionError("the stream ended")


def test_many_viewers_share_one_store_and_miss_nothing(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    polls: list[float] = []
    poll = Follower.poll
    monkeypatch.setattr(Follower, "poll", lambda self: polls.append(time.monotonic()) or poll(self))
    database = runs / "one" / "run.sqlite"

    async def watch() -> None:
        feeds = Feeds(Workspace(runs))
        viewers = [feeds.stream_run("one", 0) for _ in range(30)]
        first = await asyncio.gather(*(read_until(item, lambda news: "rows" in news) for item in viewers))
        assert all(item == first[0] for item in first) and count_handles(database) == 1
        add_row(runs, 5001)
        seen = await asyncio.gather(*(read_until(item, lambda news: "rows" in news) for item in viewers))
        assert [item["rows"]["id"] for item in seen] == [[5001]] * 30
        late = feeds.stream_run("one", 0)
        whole = await read_until(late, lambda news: "rows" in news)
        assert whole["rows"]["id"] == [*first[0]["rows"]["id"], 5001] and whole["head"] == first[0]["head"]
        assert whole["dense"] == first[0]["dense"] and whole["generations"] == first[0]["generations"]
        knowing = feeds.stream_run("one", 5001)
        assert (await read_until(knowing, lambda news: "rows" in news))["rows"]["id"] == [5001]
        begun, before = time.monotonic(), len(polls)
        await asyncio.sleep(2)
        assert len(polls) - before <= 1 + (time.monotonic() - begun) / 0.2
        for item in (*viewers, late, knowing):
            await item.aclose()  # type: ignore[attr-defined]
        end = time.monotonic() + 20
        while count_handles(database):
            assert time.monotonic() < end
            await asyncio.sleep(0.05)
        after = len(polls)
        await asyncio.sleep(1.5)
        assert len(polls) == after  # no viewers, no work

    asyncio.run(watch())


class UnsteadySource:
    """A source whose polls fail, so many times in a row, before each version."""

    interval = 0.001

    def __init__(self, failures: int) -> None:
        self.failures, self.polls, self.closed = failures, 0, False

    def poll(self) -> int:
        self.polls += 1
        if self.polls % (self.failures + 1):
            raise RunError("the file\nis locked")
        return self.polls // (self.failures + 1)

    def format(self, since: int, after: int) -> EventText:
        return EventText(1, 0, "{}")

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(("failures", "event"), [(MAX_FAILURES - 1, "data: {}"), (MAX_FAILURES, "event: gone")])
def test_a_stream_survives_what_passes(failures: int, event: str, tmp_path: Path) -> None:
    source = UnsteadySource(failures)

    async def watch() -> str:
        stream = Feeds(Workspace(tmp_path))._stream("", lambda: source, None)
        text = await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        return text

    text = asyncio.run(watch())
    assert text.startswith(event) and (event == "data: {}" or '"the file is locked"' in text)
    assert source.closed


def test_a_poll_without_news_reads_no_rows(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    follower = Follower(open_run(runs, "one"))
    assert follower.poll()
    monkeypatch.setattr(
        Store,
        "_read",
        lambda *arguments: pytest.fail("it was read") if "data_version" not in arguments[1] else [(follower._version,)],
    )
    for _ in range(3):
        assert not follower.poll()
    follower.close()


def test_a_state_that_no_file_shows_is_noticed(runs: Path) -> None:
    follower = Follower(open_run(runs, "one"))
    follower.poll()
    with open_run(runs, "one").lock():
        assert follower.poll().to_dict()["state"]["state"] == "running"
    assert follower.poll().to_dict()["state"]["state"] == "stopped"
    assert not follower.poll()
    follower.close()


@pytest.fixture
def settled(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the run to 12, last changed an hour ago."""
    monkeypatch.setattr(listing, "SETTLED_NS", 10_000_000)
    for number in range(11):
        shutil.copytree(runs / "one", runs / f"copy-{number}")
    for path in runs.rglob("*"):
        os.utime(path, (time.time() - 3600,) * 2)
    return runs


def test_only_changed_runs_are_read_again(settled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    describe = listing._describe_run
    monkeypatch.setattr(listing, "_describe_run", lambda folder, name: read.append(name) or describe(folder, name))
    lister = RunLister(settled)
    first = lister.list_runs()
    assert len(read) == 12
    assert lister.list_runs() == first and len(read) == 12
    read.clear()
    add_row(settled, 6001)
    rows = {row.run: row for row in lister.list_runs()}
    assert read == ["one"] and rows["one"].evaluations == first[-1].evaluations + 1
    with open_run(settled, "copy-3").lock():
        assert next(row for row in lister.list_runs() if row.run == "copy-3").state == "running"
        time.sleep(0.1)
        lister.list_runs()
        read.clear()
        lister.list_runs()
        assert read == []
    assert next(row for row in lister.list_runs() if row.run == "copy-3").state == "stopped"
    shutil.rmtree(settled / "copy-3")
    assert len(lister.list_runs()) == 11


def test_a_change_in_the_same_moment_is_not_missed(runs: Path) -> None:
    lister = RunLister(runs)
    (row,) = lister.list_runs()
    stamps = lister._entries["one"].stamps
    add_row(runs, 7001)
    times = [(path, stamp.changed_ns) for path, stamp in zip(listing.RUN_FILES, stamps, strict=True)]
    for name, changed in times:
        with suppress(FileNotFoundError):
            os.utime(runs / "one" / name, ns=(changed, changed))
    assert lister.list_runs()[0].evaluations == row.evaluations + 1


def test_many_streams_of_the_list_ask_once(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    workspace = Workspace(runs)
    summarize = Workspace.summarize_runs
    monkeypatch.setattr(Workspace, "summarize_runs", lambda self: asked.append(0) or summarize(self))

    async def watch() -> None:
        feeds = Feeds(workspace)
        viewers = [feeds.stream_list() for _ in range(20)]
        texts = await asyncio.gather(*(anext(item) for item in viewers))
        assert len(set(texts)) == 1 and len(asked) <= 2
        add_row(runs, 8001)
        texts = await asyncio.gather(*(anext(item) for item in viewers))
        assert parse_event(texts[0])[0]["evaluations"] == 31 and len(set(texts)) == 1
        for item in viewers:
            await item.aclose()  # type: ignore[attr-defined]

    asyncio.run(watch())


def test_a_log_of_news_gives_every_part_once(runs: Path) -> None:
    log, follower = NewsLog(), Follower(open_run(runs, "one"))
    log.add(follower.poll())
    follower.close()
    assert log.collect(0).rows is not None and not log.collect(1)
    last = max(log.collect(0).rows.id)  # type: ignore[union-attr]
    assert log.collect(0, last + 2000).rows is None and log.collect(0, last).rows == log.collect(0).rows


def answer(response: Any) -> list[Any]:
    """Run a response until it has sent two messages, and leave."""
    sent: list[Any] = []

    async def receive() -> Any:
        while len(sent) < 2:
            await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(response({"type": "http", "asgi": {}}, receive, send))
    return sent


def test_streams_are_bounded_and_released() -> None:
    async def events() -> AsyncIterator[str]:
        while True:
            yield ": \n\n"
            await asyncio.sleep(0.01)

    limit = StreamLimit(1)
    for _ in range(3):
        assert answer(EventStream(events(), limit))[0]["status"] == 200
    assert limit.open == 0
    limit.open = 1
    start, body = answer(EventStream(events(), limit))
    assert start["status"] == 503 and "streams are open already" in json.loads(body["body"])["error"]
    assert limit.open == 1


def test_long_work_is_bounded() -> None:
    running: list[int] = []
    most, lock, go, both = 0, threading.Lock(), threading.Event(), threading.Event()

    def work(number: int) -> int:
        nonlocal most
        with lock:
            running.append(number)
            most = max(most, len(running))
            if most == 2:
                both.set()
        go.wait(20)
        with lock:
            running.remove(number)
        return number

    async def ask() -> list[Any]:
        limit = WorkLimit("reports", 2, 3)
        asked = [asyncio.create_task(limit.run(work, number)) for number in range(8)]
        refused = asked[5:]
        await asyncio.wait(refused, timeout=20)
        await asyncio.to_thread(both.wait, 20)
        go.set()
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert await limit.run(work, 99) == 99
        return found

    found = asyncio.run(ask())
    assert found[:5] == [0, 1, 2, 3, 4] and most == 2
    for error in found[5:]:
        assert isinstance(error, HTTPException) and error.status_code == 503 and "reports" in error.detail


def test_an_infinite_error_does_not_break_the_list(runs: Path) -> None:
    with sqlite3.connect(runs / "one" / "run.sqlite") as connection:
        connection.execute("UPDATE evaluations SET error = 9e999")
    (row,) = RunLister(runs).list_runs()
    assert row.run == "one" and "least_error cannot be inf" in row.state and "\n" not in row.state
