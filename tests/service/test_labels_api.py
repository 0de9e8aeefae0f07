"""Labels, deletion and tables of charts over the API."""

import csv
import io
import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
from starlette.testclient import TestClient

from blendsearch.results.report.chart import ChartOptions
from blendsearch.results.report.chart_builder import build_front_chart
from blendsearch.runs.run import open_run
from blendsearch.service.app import make_app
from blendsearch.service.security import Authenticator
from blendsearch.service.workspace import Workspace

TOKEN = "a-token-that-only-tests-know"
HOST = "http://127.0.0.1:8484"


@pytest.fixture
def runs(searched: Path, tmp_path: Path) -> Path:
    shutil.copytree(searched, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def client(runs: Path) -> Iterator[TestClient]:
    app = make_app(Workspace(runs), Authenticator(TOKEN), frozenset({"127.0.0.1"}))
    with TestClient(app, base_url=HOST, headers={"authorization": f"Bearer {TOKEN}"}) as found:
        yield found


def get_row(client: TestClient) -> Any:
    return client.get("/api/runs").json()[0]


def test_a_run_is_labelled(client: TestClient) -> None:
    assert get_row(client)["tags"] == [] and not get_row(client)["archived"]
    answer = client.post("/api/runs/one/labels", json={"tags": ["b", "a"]})
    assert answer.json() == {"run": "one", "tags": ["a", "b"], "archived": False}
    assert client.post("/api/runs/one/labels", json={"archived": True}).json()["tags"] == ["a", "b"]
    assert get_row(client)["tags"] == ["a", "b"] and get_row(client)["archived"]
    assert client.post("/api/runs/one/labels", json={"tags": []}).json() == {"run": "one", "tags": [], "archived": True}
    refused = client.post("/api/runs/one/labels", json={"tags": ["<b>"]})
    assert refused.status_code == 422 and "is not a tag" in refused.json()["error"]
    assert client.post("/api/runs/one/labels", json={"tags": ["x"] * 21}).status_code == 422
    assert client.post("/api/runs/absent/labels", json={"tags": []}).status_code == 404


def test_a_run_is_deleted_unless_it_is_searched(client: TestClient, runs: Path) -> None:
    with open_run(runs, "one").lock():
        refused = client.delete("/api/runs/one")
        assert refused.status_code == 409 and "being searched" in refused.json()["error"]
    (runs / ".service" / "one.export-3").mkdir(parents=True)
    (runs / ".service" / "one.export-3" / "process.json").write_text("{}")
    assert client.delete("/api/runs/one").status_code == 204
    assert client.get("/api/runs").json() == [] and not list((runs / ".service").iterdir())
    assert [path.name for path in runs.iterdir()] == [".service"]
    assert client.delete("/api/runs/one").status_code == 404
    # a search that ended before it began is removed from the list in the same way
    (runs / ".service" / "early").mkdir()
    (runs / ".service" / "early" / "process.json").write_text(json.dumps({"pid": 1, "words": []}))
    assert get_row(client)["run"] == "early"
    assert client.delete("/api/runs/early").status_code == 204 and client.get("/api/runs").json() == []


def test_a_cookie_alone_neither_labels_nor_deletes(client: TestClient, runs: Path) -> None:
    client.post("/api/session", json={"token": TOKEN})
    del client.headers["authorization"]
    for headers in ({}, {"origin": "http://127.0.0.1:1"}, {"origin": HOST, "sec-fetch-site": "cross-site"}):
        assert client.delete("/api/runs/one", headers=headers).status_code == 403
        assert client.post("/api/runs/one/labels", json={"archived": True}, headers=headers).status_code == 403
    assert (runs / "one" / "run.json").exists() and not get_row(client)["archived"]
    assert client.delete("/api/runs/one", headers={"origin": HOST}).status_code == 204


def test_a_chart_is_a_table_of_the_same_points(client: TestClient, runs: Path) -> None:
    assert client.get("/api/runs/one/axes").json() == {
        "x": ["evaluations", "macs", "params", "bytes", "measured"],
        "y": ["accuracy", "error", "loss"],
        "stages": ["both"],
    }
    answer = client.get("/api/runs/one/chart.csv?x=bytes")
    assert answer.headers["content-type"].startswith("text/csv")
    assert 'filename="one-front.csv"' in answer.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    chart = build_front_chart(open_run(runs, "one"), ChartOptions("bytes"))
    assert len(rows) == sum(len(series.points) for series in chart.series)
    assert [row["label"] for row in rows if row["label"]] == ["best"]
    best = next(row for row in rows if row["label"])
    details = client.get(f"/api/runs/one/networks/{best['network']}").json()
    assert float(best["size of the float32 weights"]) == 4 * details["params"]
    assert float(best["accuracy on validation images"]) == pytest.approx(details["val_accuracy"])
    drawn = client.get("/api/runs/one/chart?x=bytes").text
    assert best["description"] in drawn and "kB" in drawn and ">dense<" in drawn
    narrow = client.get("/api/runs/one/chart?x=bytes&narrow=true").text
    assert 'viewBox="0 0 400 ' in narrow and drawn.count("data-id=") == narrow.count("data-id=")
    with open_run(runs, "one").open_store(read_only=True) as store:
        latencies = store.read_latencies()
    measured = build_front_chart(open_run(runs, "one"), ChartOptions("measured"))
    assert {point.x for series in measured.series for point in series.points} <= {
        found.ratio for found in latencies.values()
    }
    assert measured.x.label.startswith("measured latency")
    with sqlite3.connect(runs / "one" / "run.sqlite") as connection:
        connection.execute("DELETE FROM latencies")
    assert "measured" not in client.get("/api/runs/one/axes").json()["x"]
    for query, reason in (("x=measured", "no measured latencies"), ("stage=after", "no long fine-tunes")):
        refused = client.get(f"/api/runs/one/chart?{query}")
        assert refused.status_code == 409 and reason in refused.json()["error"]
