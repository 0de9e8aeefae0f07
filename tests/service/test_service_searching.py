"""Searches started, stopped, resumed and exported over the API, by a server that may itself be started again."""

import io
import json
import os
import time
import zipfile
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import yaml

pytest.importorskip("uvicorn")

from serving import TOKEN, Served, served

import blendsearch
from blendsearch.cli.main import main
from blendsearch.errors import RunError
from blendsearch.runs.run import open_run
from blendsearch.service.processes import ProcessManager


def heard(server: Served, path: str, seconds: float = 120.0) -> Any:
    """The events at `path` until one tells of evaluations, put together."""
    request = Request(f"{server.url}/api/{path}", headers={"authorization": f"Bearer {TOKEN}"})
    end = time.monotonic() + seconds
    news: dict[str, Any] = {}
    with urlopen(request, timeout=seconds) as stream:
        for line in stream:
            if line.startswith(b"data: "):
                news |= json.loads(line[6:])
            if "rows" in news:
                return news
            assert time.monotonic() < end
    raise AssertionError("the stream ended")


def test_a_search_from_start_to_export(
    quick: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick["search"] = {"evaluations": 100_000, "population": 8}
    quick["fitness"] |= {"fidelity": "tuned", "tuning": {"epochs": 1}}
    runs, config = tmp_path / "runs", tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(quick))
    monkeypatch.setenv("BLENDSEARCH_TOKEN", TOKEN)

    def said(*words: str) -> Any:
        capsys.readouterr()
        main([*words, "--json"])
        return json.loads(capsys.readouterr().out)

    with served(runs, leave=True) as server:
        there = ("--server", server.url)
        assert said("search", str(config), "--name", "one", *there)["run"] == "one"
        assert server.ask("runs")[0]["state"] == "starting"
        with pytest.raises(SystemExit):
            main(["search", str(config), "--name", "one", *there])
        assert "already" in capsys.readouterr().err
        # a name that is spelt as names are but not known is found out by the process, and told by the list
        wrong = quick | {"criteria": {"pool": ["l1", "tailor_gate"]}}
        server.ask("runs", {"config": yaml.safe_dump(wrong), "name": "wrong"})
        server.until("runs", lambda rows: rows[0]["state"] == "running")
        news = heard(server, "runs/one/events")
        assert news["head"]["run"] == "one" and news["child"]["lives"]
        assert heard(server, f"runs/one/events?after={max(news['rows']['id'])}")["state"]["state"] == "running"
        rows = server.until("runs", lambda rows: rows[1]["state"].startswith("failed"))
        assert said("runs", *there)[1] == rows[1] and "did you mean 'taylor_gate'" in rows[1]["state"]
        with pytest.raises(SystemExit):
            main(["front", "wrong", *there])
        assert "did not start: blendsearch: no criterion" in capsys.readouterr().err
        course = server.ask("runs/wrong/course")
        assert course["state"]["state"] == "failed" and "tailor_gate" in course["child"]["said"][-1]
    # the page's server has gone; the search goes on
    run = open_run(runs, "one")
    assert run.running
    with served(runs) as server:
        there = ("--server", server.url)
        assert said("status", "one", *there)["state"] == "running"
        found = server.ask("runs/one/stop", {})
        server.until("runs/one/course", lambda facts: not facts["child"]["lives"])  # a loaded machine takes long
        assert found["run"] == "one" and not run.running
        stopped = said("status", "one", *there)
        assert stopped["state"] == "stopped" and stopped["evaluations"] > 0
        assert "continue with: blendsearch resume one" in server.ask("runs/one/course")["child"]["said"][-1]
        # a config is changed only where that changes nothing that was judged: end it soon
        facts = json.loads((runs / "one" / "run.json").read_text())
        facts["config"]["search"]["evaluations"] = stopped["evaluations"]
        (runs / "one" / "run.json").write_text(json.dumps(facts))
        more = f"search.evaluations={stopped['evaluations'] + 8}"
        assert said("resume", "one", "--set", more, *there)["run"] == "one"
        server.until("runs/one", lambda facts: facts["state"] == "finished")
        front = said("front", "one", *there)
        assert front["front"] and front["finished"]
        assert said("fork", "one", "--name", "two", "--set", "search.evaluations=12", *there)["run"] == "two"
        network = server.ask("runs/one/exports", {"pick": "best"})["network"]
        assert network == said("show", "one", "best", *there)["id"]
        server.until(f"runs/one/exports/{network}", lambda facts: facts["state"] == "done")
        request = Request(
            f"{server.url}/api/runs/one/exports/{network}/files", headers={"authorization": f"Bearer {TOKEN}"}
        )
        with urlopen(request) as answer:
            zipfile.ZipFile(io.BytesIO(answer.read())).extractall(tmp_path / "out")
        module = blendsearch.load(tmp_path / "out" / f"one-{network}")
        server.until("runs", lambda rows: [row["state"] for row in rows if row["run"] == "two"] == ["finished"])
        kept = said("show", "one", str(network), *there)["params"]
        assert sum(parameter.numel() for parameter in module.parameters()) == kept


def test_a_process_is_known_by_the_lock_it_holds(tmp_path: Path) -> None:
    children = ProcessManager(tmp_path)
    assert not children.is_running("one") and children.read_output("one") == []
    with pytest.raises(RunError, match="no process"):
        children.stop("one")
    children.start("one", ["criteria", "--runs", str(tmp_path), "--json"])
    assert children.list_names() == ["one"]
    with pytest.raises(RunError, match="already"):
        children.start("one", ["runs"])
    assert ProcessManager(tmp_path).is_running("one")  # another server sees it too
    end = time.monotonic() + 60
    while children.is_running("one"):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert children.read_output("one")[-1] == "]"
    # its number may be another's by now: nothing is sent to it
    (tmp_path / ".service" / "one" / "process.json").write_text(json.dumps({"pid": os.getpid(), "words": []}))
    with pytest.raises(RunError, match="no process"):
        children.stop("one")


def test_the_command_line_refuses_what_no_server_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def refused(*words: str) -> str:
        with pytest.raises(SystemExit) as caught:
            main(list(words))
        assert caught.value.code == 2
        return capsys.readouterr().err

    monkeypatch.delenv("BLENDSEARCH_TOKEN", raising=False)
    assert "BLENDSEARCH_TOKEN" in refused("runs", "--server", "http://127.0.0.1:9")
    monkeypatch.setenv("BLENDSEARCH_TOKEN", TOKEN)
    assert "does not answer" in refused("runs", "--server", "http://127.0.0.1:9")
    for url in ("127.0.0.1:8484", "ftp://127.0.0.1", "http://127.0.0.1/?x=1"):
        assert "is no server's address" in refused("runs", "--server", url)
    assert "--plot is not for --server" in refused("front", "one", "--plot", "--server", "http://127.0.0.1:9")
    monkeypatch.setenv("BLENDSEARCH_TOKEN", "short")
    assert "is not a valid token" in refused("serve", "--runs", str(tmp_path), "--port", "0")
    monkeypatch.setenv("BLENDSEARCH_TOKEN", TOKEN)
    assert "is not a folder" in refused("serve", "--runs", str(tmp_path), "--data", str(tmp_path / "absent"))
