"""Searches started, stopped, resumed and exported over the API, by a server that may itself be started again."""

import io
import json
import os
import re
import time
import zipfile
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
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

EXAMPLE = (Path(__file__).parents[2] / "docs" / "howto" / "live-page.md").read_text(encoding="utf-8")


def read_events(server: Served, path: str, seconds: float = 120.0) -> Any:
    """The events at `path` until one has evaluations, merged."""
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


def read_refusal(server: Served, path: str, body: Any = None) -> str:
    with pytest.raises(HTTPError) as caught:
        server.ask(path, body)
    return str(json.loads(caught.value.read())["error"])


def test_a_search_from_start_to_export(quick: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick["search"] = {"evaluations": 100_000, "population": 8}
    runs, search = tmp_path / "runs", {"config": yaml.safe_dump(quick), "name": "one"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(quick))
    monkeypatch.setenv("BLENDSEARCH_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)
    with served(runs, leave=True) as server:
        ((example),) = re.findall(r"```python\n(.*?)```", EXAMPLE, re.DOTALL)
        names: dict[str, Any] = {}
        exec(example.replace("http://127.0.0.1:8484", server.url), names)
        assert names["started"] == {"run": "one"}
        assert names["request"]("runs")[0]["state"] == "starting"
        assert "already" in read_refusal(server, "runs", search)
        # a name that is spelt as names are but not known is found out by the process, and told by the list
        wrong = quick | {"criteria": {"pool": ["l1", "tailor_gate"]}}
        server.ask("runs", {"config": yaml.safe_dump(wrong), "name": "wrong"})
        server.until("runs", lambda rows: rows[0]["state"] == "running")
        news = read_events(server, "runs/one/events")
        assert news["head"]["run"] == "one" and news["child"]["lives"]
        assert read_events(server, f"runs/one/events?after={max(news['rows']['id'])}")["state"]["state"] == "running"
        rows = server.until("runs", lambda rows: rows[1]["state"].startswith("failed"))
        assert "did you mean 'taylor_gate'" in rows[1]["state"]
        assert "did not start: blendsearch: no criterion" in read_refusal(server, "runs/wrong/front")
        course = server.ask("runs/wrong/course")
        assert course["state"]["state"] == "failed" and "tailor_gate" in course["child"]["said"][-1]
    # the page's server has gone; the search goes on
    run = open_run(runs, "one")
    assert run.running
    with served(runs) as server:
        assert server.ask("runs/one")["state"] == "running"
        found = server.ask("runs/one/stop", {})
        server.until("runs/one/course", lambda facts: not facts["child"]["lives"])  # a loaded machine takes long
        assert found["run"] == "one" and not run.running
        stopped = server.ask("runs/one")
        assert stopped["state"] == "stopped" and stopped["evaluations"] > 0
        assert "continue with: blendsearch resume one" in server.ask("runs/one/course")["child"]["said"][-1]
        # a config is changed only where that changes nothing that was judged: end it soon
        facts = json.loads((runs / "one" / "run.json").read_text())
        facts["config"]["search"]["evaluations"] = stopped["evaluations"]
        (runs / "one" / "run.json").write_text(json.dumps(facts))
        more = f"search.evaluations={stopped['evaluations'] + 8}"
        assert server.ask("runs/one/resume", {"set": [more]})["run"] == "one"
        server.until("runs/one", lambda facts: facts["state"] == "finished")
        front = server.ask("runs/one/front")
        assert front["front"] and front["finished"]
        assert server.ask("runs/one/fork", {"name": "two", "set": ["search.evaluations=12"]})["run"] == "two"
        network = server.ask("runs/one/exports", {"pick": "best"})["network"]
        assert network == server.ask("runs/one/networks/best")["id"]
        server.until(f"runs/one/exports/{network}", lambda facts: facts["state"] == "done")
        request = Request(
            f"{server.url}/api/runs/one/exports/{network}/files", headers={"authorization": f"Bearer {TOKEN}"}
        )
        with urlopen(request) as answer:
            zipfile.ZipFile(io.BytesIO(answer.read())).extractall(tmp_path / "out")
        module = blendsearch.load(tmp_path / "out" / f"one-{network}")
        server.until("runs", lambda rows: [row["state"] for row in rows if row["run"] == "two"] == ["finished"])
        kept = server.ask(f"runs/one/networks/{network}")["params"]
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


def test_a_server_without_a_good_token_or_data_folder_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def refused(*words: str) -> str:
        with pytest.raises(SystemExit) as caught:
            main(list(words))
        assert caught.value.code == 2
        return capsys.readouterr().err

    monkeypatch.setenv("BLENDSEARCH_TOKEN", "short")
    assert "is not a valid token" in refused("serve", "--runs", str(tmp_path), "--port", "0")
    monkeypatch.setenv("BLENDSEARCH_TOKEN", TOKEN)
    assert "is not a folder" in refused("serve", "--runs", str(tmp_path), "--data", str(tmp_path / "absent"))
