"""States of a run while its process starts and ends: what the list and the run's page show."""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("playwright.sync_api")
from browsing import Opener, needs_chromium, open_browser, open_pages, picture
from playwright.sync_api import expect
from serving import served

from blendsearch.errors import RunError
from blendsearch.service.events import RunWatcher
from blendsearch.service.workspace import Workspace


@contextmanager
def pretended_process(runs: Path, name: str, *, output: str = "", stopped: bool = False) -> Iterator[None]:
    """Leave the files of a process that was just started, and hold its lock."""
    folder = runs / ".service" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "process.json").write_text(json.dumps({"pid": os.getpid(), "words": []}))
    (folder / "said.txt").write_text(output)
    (folder / "config.yaml").write_text("seed: 1\n")
    (folder / "stop").touch() if stopped else (folder / "stop").unlink(missing_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def read_states(runs: Path, name: str) -> tuple[str, str]:
    """Read the state of a run as the list and as the page show it."""
    workspace = Workspace(runs)
    watcher = RunWatcher(workspace, name)
    state = watcher.poll().to_dict()["state"]["state"]
    watcher.close()
    return next(row["state"] for row in workspace.summarize_runs() if row["run"] == name), state


def test_a_process_without_a_run_starts_stops_or_fails(tmp_path: Path) -> None:
    with pretended_process(tmp_path, "new"):
        assert read_states(tmp_path, "new") == ("starting", "starting")
        with pytest.raises(RunError, match="has not started yet: its process has no output yet"):
            Workspace(tmp_path).open("new")
    assert read_states(tmp_path, "new") == ("failed: its process ended without a reason", "failed")
    with pretended_process(tmp_path, "new", stopped=True):
        assert read_states(tmp_path, "new") == ("stopping", "stopping")
    assert read_states(tmp_path, "new") == ("stopped", "stopped")  # not a failure: it was asked to
    with pytest.raises(RunError, match="was stopped before it began"):
        Workspace(tmp_path).open("new")
    with pretended_process(tmp_path, "new", output="blendsearch: no criterion 'x'\n"):
        pass
    assert read_states(tmp_path, "new") == ("failed: no criterion 'x'", "failed")


@pytest.mark.parametrize("finished", [False, True])
def test_a_process_beside_a_run_starts_or_ends(searched: Path, tmp_path: Path, finished: bool) -> None:
    shutil.copytree(searched / "one", tmp_path / "one")
    end = "finished" if finished else "stopped"
    if not finished:
        (tmp_path / "one" / "finished.json").unlink()
    assert read_states(tmp_path, "one") == (end, end)
    with pretended_process(tmp_path, "one"):
        assert read_states(tmp_path, "one") == ("starting", "starting")
        engine = tmp_path / "one" / "engine.json"
        engine.write_text(json.dumps({**json.loads(engine.read_text()), "started": time.time() + 1}))
        # it has searched: it ends
        ending = "finished" if finished else "stopping"
        assert read_states(tmp_path, "one") == (ending, ending)
    with pretended_process(tmp_path, "one", stopped=True):
        ending = "finished" if finished else "stopping"
        assert read_states(tmp_path, "one") == (ending, ending)
    assert read_states(tmp_path, "one") == (end, end)


@needs_chromium
def test_a_search_is_stopped_as_soon_as_it_was_started(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with served(runs) as server, open_browser() as browser, open_pages(browser, server) as at:
        page = at("/start")
        expect(page.locator("#config")).not_to_have_value("")
        page.get_by_label("Name of the run").fill("soon")
        page.get_by_role("button", name="Start", exact=True).click()
        expect(page.locator("#state")).to_have_text("starting")
        expect(page.locator("#output")).not_to_contain_text("not started by this server")
        expect(page.locator("#title")).to_have_text("Run soon")
        page.get_by_role("button", name="Stop").click()
        expect(page.locator("#state")).to_have_text("stopped", timeout=60_000)
        expect(page.locator("#under")).to_contain_text("stopped before the search began")
        expect(page.locator("#alert")).to_be_empty()
        expect(page.get_by_role("button", name="Stop")).to_be_hidden()
        expect(page.get_by_role("button", name="Resume")).to_be_hidden()
        expect(page.locator("#view")).to_be_hidden()
        picture(page, "stopped-early")
        page.get_by_role("link", name="Start it again").click()
        expect(page.get_by_label("Name of the run")).to_have_value("soon")
        expect(page.locator("#config")).not_to_have_value("")
        show_phases(at, runs)


def show_phases(at: Opener, runs: Path) -> None:
    """Check what the page shows while a process lives, and once it has ended."""
    with pretended_process(runs, "new"):
        page = at("/runs/new")
        expect(page.locator("#output")).to_have_text("There is no output yet.")
        (runs / ".service" / "new" / "stop").touch()
        expect(page.locator("#state")).to_have_text("stopping")
        expect(page.get_by_role("button", name="Stop at once")).to_be_visible()
        (runs / ".service" / "new" / "stop").unlink()
    expect(page.locator("#state")).to_have_text("failed")
    expect(page.locator("#alert")).to_have_text("The process ended without a reason.")
    expect(page.get_by_role("link", name="Start it again")).to_be_visible()
