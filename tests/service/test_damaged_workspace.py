"""Runs that are damaged or forged: lists, streams and other runs stay as they are, and no code that they name runs."""

import json
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
from starlette.testclient import TestClient

from blendsearch.errors import RunError
from blendsearch.runs import parsing
from blendsearch.service.app import make_app
from blendsearch.service.events import ListEvents, RunEvents
from blendsearch.service.processes import ProcessManager
from blendsearch.service.security import Authenticator
from blendsearch.service.workspace import Workspace

TOKEN = "a-token-that-only-tests-know"
HEADERS = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def runs(searched: Path, tmp_path: Path) -> Path:
    shutil.copytree(searched, tmp_path / "runs")
    shutil.copytree(searched / "one", tmp_path / "runs" / "bad")
    return tmp_path / "runs"


@pytest.fixture
def client(runs: Path) -> Iterator[TestClient]:
    app = make_app(Workspace(runs), Authenticator(TOKEN), frozenset({"127.0.0.1"}))
    with TestClient(app, base_url="http://127.0.0.1:8484", headers=HEADERS) as found:
        yield found


def edit(path: Path, change: Callable[[Any], None]) -> None:
    facts = json.loads((path / "run.json").read_text())
    change(facts)
    (path / "run.json").write_text(json.dumps(facts))


def write(content: bytes) -> Callable[[Path], None]:
    return lambda path: (path / "run.json").write_bytes(content) and None


def replace_by_folder(path: Path) -> None:
    (path / "run.json").unlink()
    (path / "run.json").mkdir()


def replace_by_pipe(path: Path) -> None:
    (path / "run.json").unlink()
    os.mkfifo(path / "run.json")


def enlarge(path: Path) -> None:
    with (path / "run.json").open("r+b") as file:
        file.truncate(parsing.MAX_JSON_BYTES + 1)


def break_rows(path: Path) -> None:
    with sqlite3.connect(path / "run.sqlite") as connection:
        connection.execute("UPDATE evaluations SET error = 'low', loss = x'00', macs = 'many', origin = x'ff'")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "only a format": write(b'{"format": 1}'),
    "empty": write(b""),
    "junk": write(bytes(range(256)) * 40),
    "null": write(b"null"),
    "nested": write(b"[" * 200_000),
    "surrogate": lambda path: edit(path, lambda facts: facts["config"]["model"].update(factory="\ud800")),
    "no structure": lambda path: edit(path, lambda facts: facts.update(structure={})),
    "wrong structure": lambda path: edit(path, lambda facts: facts["structure"].update(dense=[1], groups=7)),
    "format text": lambda path: edit(path, lambda facts: facts.update(format="1")),
    "later format": lambda path: edit(path, lambda facts: facts.update(format=10**9)),
    "folder": replace_by_folder,
    "pipe": replace_by_pipe,
    "huge": enlarge,
    "database junk": lambda path: (path / "run.sqlite").write_bytes(b"junk" * 5000) and None,
    "database absent": lambda path: (path / "run.sqlite").unlink(),
    "rows": break_rows,
    "facts of the engine": lambda path: (path / "engine.json").write_text("[1]") and None,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_breaks_nothing_else(damage: str, client: TestClient, runs: Path) -> None:
    events = ListEvents(Workspace(runs))
    events.poll()
    DAMAGES[damage](runs / "bad")
    for listed in (client.get("/api/runs").json(), json.loads(events.format(events.poll(), 0).text)):
        rows = {row["run"]: row for row in listed}
        assert set(rows) == {"one", "bad"} and rows["one"]["state"] == "finished"
        assert "\n" not in rows["bad"]["state"]
    for path in ("", "/front", "/networks/best", "/course", "/chart", "/config", "/report", "/chart?beside=bad"):
        answer = client.get(f"/api/runs/bad{path}")
        assert answer.status_code in (200, 404, 409, 422), (path, answer.text)
        if answer.status_code != 200:
            assert "\n" not in answer.json()["error"]
    with client.stream("GET", "/api/runs/absent/events") as answer:
        assert answer.status_code == 404
    assert client.get("/api/runs/one/chart?beside=bad").status_code in (200, 404, 409, 422)
    for path in ("", "/front", "/networks/best", "/course", "/chart"):
        assert client.get(f"/api/runs/one{path}").status_code == 200


def test_a_stream_of_a_run_that_becomes_damaged_ends_alone(runs: Path) -> None:
    workspace = Workspace(runs)
    bad, one = RunEvents(workspace, "bad"), RunEvents(workspace, "one")
    assert bad.poll() == one.poll() == 1
    edit(runs / "bad", lambda facts: facts.update(structure={}))
    with pytest.raises(RunError, match="structure.groups is missing|structure.criteria is missing"):  # sent as `gone`
        bad.poll()
    assert one.poll() == 1
    bad.close()
    one.close()


@pytest.fixture
def forged(runs: Path, tmp_path: Path) -> Path:
    """Make ``bad`` name a system call and a module; returns the file that the call would make."""
    made = tmp_path / "made"

    def change(facts: Any) -> None:
        facts["config"]["model"] |= {"factory": "os:system", "arguments": {"command": f"touch {made}"}}
        facts["config"]["criteria"]["modules"] = ["this"]

    edit(runs / "bad", change)
    (runs / "bad" / "finished.json").unlink()
    return made


def test_no_request_runs_code_that_a_run_names(client: TestClient, runs: Path, forged: Path) -> None:
    bodies: dict[str, Any] = {
        "exports": {"pick": "best"},
        "resume": {"set": ["search.evaluations=40"]},
        "fork": {"name": "bad-fork", "set": ["search.evaluations=6"]},
    }
    answers = {path: client.post(f"/api/runs/bad/{path}", json=body) for path, body in bodies.items()}
    assert [answer.status_code for answer in answers.values()] == [202, 202, 201]
    processes = ProcessManager(runs)
    names, end = processes.list_names(), time.monotonic() + 300
    assert len(names) == 3
    while any(processes.is_running(name) for name in names):
        assert time.monotonic() < end
        time.sleep(0.1)
    for name in names:
        (line,) = processes.read_output(name)
        assert "names user-defined code" in line and "os" in line
        assert "--trust" not in json.loads((runs / ".service" / name / "process.json").read_text())["words"]
    network = answers["exports"].json()["network"]
    assert client.get(f"/api/runs/bad/exports/{network}").json()["state"] == "failed"
    assert client.get(f"/api/runs/bad/exports/{network}/files").status_code == 404
    assert not forged.exists()


def test_no_page_runs_code_that_a_run_names(client: TestClient, forged: Path) -> None:
    schema = client.get("/api/openapi.json").json()
    asked = 0
    for path, methods in schema["paths"].items():
        if "{run}" in path and "get" in methods and not path.endswith("/events"):
            answer = client.get(path.format(run="bad", what="best", network=1))
            assert answer.status_code in (200, 404, 409), (path, answer.text)
            asked += 1
    assert asked >= 9 and not forged.exists() and "this" not in sys.modules


@pytest.mark.parametrize("override", ["--trust", "--trust=1", "--trust.x=1", "-t"])
@pytest.mark.parametrize("path", ["resume", "fork"])
def test_an_override_is_no_option(path: str, override: str, client: TestClient, runs: Path) -> None:
    assert client.post(f"/api/runs/bad/{path}", json={"set": [override]}).status_code == 422
    assert ProcessManager(runs).list_names() == []
