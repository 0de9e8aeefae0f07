"""The live page's server: who is let in, what configs are taken from a network, and that it says what the CLI says."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("fastapi")
from starlette.testclient import TestClient

from blendsearch.cli.main import main
from blendsearch.errors import ConfigError
from blendsearch.results.follower import Follower
from blendsearch.runs.origin import DENSE
from blendsearch.runs.pareto import select_evaluated, select_front
from blendsearch.runs.run import open_run
from blendsearch.runs.store import Store
from blendsearch.service import LOOPBACK_HOSTS
from blendsearch.service.app import make_app
from blendsearch.service.config_policy import (
    MAX_CONFIG_SIZE,
    check_fork_overrides,
    check_resume_overrides,
    parse_remote_config,
)
from blendsearch.service.security import MAX_BODY_SIZE, Authenticator
from blendsearch.service.workspace import Workspace

TOKEN = "a-token-that-only-tests-know"
BEARER = {"authorization": f"Bearer {TOKEN}"}
HOST = "http://127.0.0.1:8484"


@pytest.fixture
def client(searched: Path) -> Iterator[TestClient]:
    app = make_app(Workspace(searched), Authenticator(TOKEN), frozenset({"127.0.0.1", "localhost"}))
    with TestClient(app, base_url=HOST) as found:
        yield found


def test_nothing_is_answered_without_the_token(client: TestClient) -> None:
    schema = client.get("/api/openapi.json", headers=BEARER).json()
    asked = 0
    for path, methods in schema["paths"].items():
        for method in methods:
            if (path, method) == ("/api/session", "post"):
                continue
            place = path.format(run="one", what="best", network=1)
            for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}):
                answer = client.request(method, place, headers=headers)
                assert answer.status_code == 401 and "token" in answer.json()["error"], place
                asked += 1
    assert asked > 40
    assert client.get("/api/openapi.json").status_code == client.get("/api/nowhere").status_code == 401
    assert client.post("/api/session", json={"token": "wrong"}).status_code == 401


def test_the_token_is_exchanged_for_a_cookie_that_scripts_cannot_read(client: TestClient) -> None:
    answer = client.post("/api/session", json={"token": TOKEN})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and TOKEN not in cookie
    assert client.get("/api/runs").status_code == 200
    assert client.post("/api/runs/one/stop").status_code == 403  # a cookie and no word of where the request is from
    assert client.post("/api/runs/one/stop", headers={"origin": HOST}).status_code == 409
    assert client.delete("/api/session", headers={"origin": HOST}).status_code == 204
    client.cookies.set("blendsearch", cookie.partition("=")[2].partition(";")[0])
    assert client.get("/api/runs").status_code == 401


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8484",
        "127.0.0.1.evil.example",
        "",
        "[::1",
        "::1",
        "[::1]]",
        "[::1].evil.example",
        "[0:0:0:0:0:0:0:1]",
        "[::1%25lo]",
        "[127.0.0.1]",
        "[localhost]",
        "user@localhost",
        "localhost@evil.example",
        "localhost:8484@evil.example",
        "localhost.",
        "localhost.:8484",
        "LOCALHOST",
        "localhost:",
        "localhost:0",
        "localhost:08484",
        "localhost:65536",
        "localhost:84848484",
        "localhost:+80",
        "localhost:http",
        "localhost:80:80",
        "localhost:\u00b2".encode("latin-1"),
        "localhost,evil.example",
        "localhost/",
        "localhost#",
        "localhost?",
        "localhost\\evil.example",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
    ],
)
def test_another_name_is_not_answered(client: TestClient, host: str) -> None:
    for path in ("/", "/api/runs", "/pages/api.js"):
        answer = client.get(path, headers={**BEARER, "host": host})
        assert answer.status_code == 421 and "--allow-host" in answer.json()["error"]


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8484", "127.0.0.1:1", "[::1]", "[::1]:65535", "my_box.lan:80"]
)
def test_an_allowed_name_is_answered_at_any_port(searched: Path, host: str) -> None:
    app = make_app(Workspace(searched), Authenticator(TOKEN), LOOPBACK_HOSTS | {"my_box.lan"})
    with TestClient(app, base_url=HOST) as client:
        assert client.get("/api/runs", headers={**BEARER, "host": host}).status_code == 200


@pytest.mark.parametrize("header", ["host", "origin", "authorization", "content-length"])
def test_a_repeated_header_is_refused(client: TestClient, header: str) -> None:
    repeated = [(header, "127.0.0.1"), (header, "127.0.0.1"), *BEARER.items()]
    assert client.get("/api/runs", headers=repeated).status_code == 400


def ask_application(searched: Path, **changes: Any) -> list[Any]:
    """Send a request to the application as a server would pass it on; returns the messages of the answer."""
    app = make_app(Workspace(searched), Authenticator(TOKEN), frozenset({"localhost"}))
    headers = [(b"host", b"localhost"), *((key.encode(), value.encode()) for key, value in BEARER.items())]
    scope = {"type": "http", "method": "GET", "path": "/api/runs", "query_string": b"", "headers": headers} | changes
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


@pytest.mark.parametrize("target", ["http://localhost/api/runs", "localhost:8484", "*", ""])
def test_a_target_that_is_no_path_is_refused(searched: Path, target: str) -> None:
    start, body = ask_application(searched, path=target)
    assert start["status"] == 400 and "begins with /" in json.loads(body["body"])["error"]


def test_half_a_body_changes_nothing(searched: Path) -> None:
    start, body = ask_application(searched, method="POST", path="/api/runs/one/stop")
    assert start["status"] == 400 and "before the end" in json.loads(body["body"])["error"]


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:9999"},  # to a cookie the same site
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_pages_from_elsewhere_are_not_answered(client: TestClient, headers: dict[str, str]) -> None:
    assert client.post("/api/runs/one/stop", headers=BEARER | headers).status_code == 403
    assert client.get("/api/runs", headers=BEARER | headers).status_code == 403
    assert client.post("/api/session", json={"token": TOKEN}, headers=headers).status_code == 403


@pytest.mark.parametrize(
    "name", ["..", "%2e%2e", "..%2fone", "one%2f..%2f..", "One", "-one", "a" * 65, "one%00", ".service"]
)
def test_only_ids_are_ids(client: TestClient, name: str) -> None:
    for path in ("", "/front", "/course", "/config", "/report", "/networks/best", "/exports/1/files"):
        answer = client.get(f"/api/runs/{name}{path}", headers=BEARER)
        assert answer.status_code in (404, 422), path
        assert "error" in answer.json()
    assert client.get("/pages/..%2fapp.py").status_code in (404, 422)
    assert client.get("/pages/absent.js").status_code == 404


def test_large_bodies_are_not_read(client: TestClient) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(MAX_BODY_SIZE // 1000 + 2):
            yield b"x" * 1000

    for body in (b"x" * (MAX_BODY_SIZE + 1), pieces()):
        answer = client.post("/api/runs", content=body, headers=BEARER | {"content-type": "application/json"})
        assert answer.status_code == 413


def test_every_answer_says_what_a_page_may_do(client: TestClient) -> None:
    for path in ("/", "/runs/one", "/start", "/compare", "/pages/api.js", "/api/runs", "/api/nowhere"):
        answer = client.get(path, headers=BEARER)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        if answer.headers["content-type"].startswith("text/html"):
            assert "<style" not in answer.text and " style=" not in answer.text and "http://" not in answer.text
            assert answer.text.count("<script") == answer.text.count('<script type="module" src="/pages/')


def test_the_api_says_what_the_command_line_says(
    client: TestClient, searched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*words: str) -> Any:
        capsys.readouterr()
        main([*words, "--runs", str(searched), "--json"])
        found = json.loads(capsys.readouterr().out)
        for item in found if isinstance(found, list) else [found]:
            assert item.pop("schema") == 1
            item.pop("event", None)
        return found

    def answered(path: str) -> Any:
        return client.get(f"/api/runs{path}", headers=BEARER).json()

    assert answered("") == said("runs")
    status = answered("/one")
    assert status.pop("quiet") > 0  # seconds until the asking
    assert status.items() <= said("status", "one").items()
    found = answered("/one/front")
    assert "validation" in found.pop("notes")["splits"]
    assert found == said("front", "one")
    assert answered("/one/networks/best") == said("show", "one", "best")
    assert answered("/one/networks/9999")["error"].startswith("run 'one' has no network '9999'")
    text = client.get("/api/runs/one/config", headers=BEARER).text
    assert yaml.safe_load(text) == open_run(searched, "one").config.model_dump(mode="json")
    page = client.get("/api/runs/one/report", headers=BEARER)
    assert "<h1>" in page.text and "script-src" not in page.headers["content-security-policy"]


def test_the_course_is_what_is_stored(client: TestClient, searched: Path) -> None:
    course = client.get("/api/runs/one/course", headers=BEARER).json()
    store = open_run(searched, "one").open_store(read_only=True)
    rows, tests = store.read_evaluations(), store.read_tests()
    store.close()
    pruned = [row for row in rows if row.origin != DENSE]
    assert course["rows"]["id"] == [row.id for row in pruned]
    assert course["rows"]["loss"] == [pytest.approx(row.loss, rel=1e-5) for row in pruned]
    best = min(select_evaluated(rows), key=lambda row: (row.loss, row.id))
    assert course["front"]["best"] == course["state"]["best"]["id"] == best.id
    assert course["tests"][str(best.id)] == 1 - tests[best.digest].error
    assert course["state"]["state"] == "finished" and course["dense"]["id"] == 0
    assert [item["evaluations"] for item in course["generations"]][-1] == len(pruned)


def test_a_chart_is_drawn_once_for_every_state_of_a_run(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(searched, tmp_path / "runs")
    (tmp_path / "runs" / "one" / "finished.json").unlink()
    app = make_app(Workspace(tmp_path / "runs"), Authenticator(TOKEN), frozenset({"127.0.0.1"}))
    drawn: list[str] = []
    monkeypatch.setattr("blendsearch.service.charts._draw", lambda runs, request: drawn.append("one") or "<svg/>")
    with TestClient(app, base_url=HOST) as client:
        for query in ("", "", "?y=loss", "?y=loss"):
            assert client.get(f"/api/runs/one/chart{query}", headers=BEARER).text == "<svg/>"
        assert len(drawn) == 2
        store = Store(tmp_path / "runs" / "one" / "run.sqlite")
        store.add(store.read_evaluations()[-1]._replace(id=999, digest="f" * 64))
        store.close()
        for _ in range(2):
            client.get("/api/runs/one/chart", headers=BEARER)
        assert len(drawn) == 3


def test_a_chart_has_the_networks_and_no_styles(client: TestClient, searched: Path) -> None:
    known = {row.id for row in select_evaluated(stored_rows(searched))}
    answer = client.get("/api/runs/one/chart", headers=BEARER)
    assert answer.headers["content-type"] == "image/svg+xml"
    root = ElementTree.fromstring(answer.text)
    assert {int(item.attrib["data-id"]) for item in root.iter() if "data-id" in item.attrib} == known
    assert not any("style" in item.attrib or item.tag.endswith(("style", "script")) for item in root.iter())
    by_cost = client.get("/api/runs/one/chart?x=params&y=error&log=true", headers=BEARER).text
    assert "parameters, share of the dense network" in by_cost and "error on validation images" in by_cost
    assert "hypervolume" in client.get("/api/runs/one/chart?kind=hypervolume", headers=BEARER).text
    assert "one: lowest loss so far" in client.get("/api/runs/one/chart?beside=one", headers=BEARER).text


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("x=latency", 409),
        ("x=seconds", 422),
        ("y=x", 422),
        ("kind=all", 422),
        ("log=maybe", 422),
        ("beside=../one", 422),
        ("beside=absent", 404),
        ("color=red", 422),
    ],
)
def test_other_charts_are_refused_in_one_line(client: TestClient, query: str, status: int) -> None:
    answer = client.get(f"/api/runs/one/chart?{query}", headers=BEARER)
    assert answer.status_code == status and "\n" not in answer.json()["error"]


def test_without_matplotlib_a_chart_is_refused_and_a_report_has_no_figures(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blendsearch.extras._is_installed", lambda module: module != "matplotlib")
    answer = client.get("/api/runs/one/chart", headers=BEARER)
    assert answer.status_code == 409
    assert answer.json()["error"] == "a chart needs matplotlib: pip install 'blendsearch[plots]'"
    assert client.get("/api/runs/one/chart.csv", headers=BEARER).status_code == 200
    report = client.get("/api/runs/one/report", headers=BEARER).text
    assert "<svg" not in report and "A report with figures needs matplotlib" in report


def stored_rows(searched: Path) -> list[Any]:
    store = open_run(searched, "one").open_store(read_only=True)
    rows = store.read_evaluations()
    store.close()
    return rows


@pytest.fixture(scope="session")
def stored(searched: Path) -> list[Any]:
    return stored_rows(searched)


@given(data=st.data())
def test_whatever_order_evaluations_come_in_none_is_missed(
    data: st.DataObject, searched: Path, stored: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Workers answer out of order, and the dense network's row may come late: the front is in the end the same."""
    folder = tmp_path_factory.mktemp("order")
    shutil.copytree(searched / "one", folder / "one")
    writing = Store(folder / "one" / "run.sqlite")
    writing._connection.executescript("DELETE FROM evaluations; DELETE FROM completions; PRAGMA synchronous=OFF")
    order = data.draw(st.permutations(stored))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(order) - 1), max_size=3)))
    follower = Follower(open_run(folder, "one"))
    told: list[int] = []
    news: dict[str, Any] = {}
    for start, end in zip([0, *cuts], [*cuts, len(order)], strict=True):
        for row in order[start:end]:
            writing.add(row)
        heard = follower.poll().to_dict()
        told += heard.get("rows", {}).get("id", [])
        news |= heard
    assert not follower.poll()
    follower.close()
    writing.close()
    assert sorted(told) == [row.id for row in stored if row.origin != DENSE]
    whole = select_front(select_evaluated(stored), lambda row: ())
    assert news["front"]["ids"] == [row.id for row in whole]
    assert news["state"]["evaluations"] == len(told)


GOOD = """
model: {factory: digits_net, train: {epochs: 1}}
data: {dataset: digits}
budget: {macs: 0.5}
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.factory=os:getcwd", "not taken from a network"),
        ("model.factory=torchvision:models:resnet18", "not taken from a network"),
        ("model.factory='../digits_net'", "not taken from a network"),
        ("criteria.modules=[mine]", "not taken from a network"),
        ("training.train_fn=os:system", "not taken from a network"),
        ("training.on_step=os:abort", "not taken from a network"),
        ("data.transforms='mine:load'", "not taken from a network"),
        ("data.transforms=../x", "no name"),
        ("criteria.pool=['mine:l1']", "no name"),
        ("data.dataset='mine:load'", "no name"),
        ("engine.ray=10.0.0.1:6379", "expected off or local"),
        ("engine.ray=auto", "expected off or local"),
        ("data.download=true", "not taken from a network"),
        ("model.weights=/etc/passwd", "not below"),
        ("model.weights=../weights.pt", "not below"),
        ("model.weights=$HOME/weights.pt", "neither ~ nor $"),
        ("model.weights=~/weights.pt", "neither ~ nor $"),
        ("model.weights=link/weights.pt", "not below"),
        ("data={dataset: npz, train: /etc/passwd, test: test.npz}", "not below"),
        ("data={dataset: npz, root: sub, train: ../../x.npz, test: test.npz}", "not below"),
        ("data={dataset: image-folder, root: ..}", "not below"),
        ("data={dataset: image-folder, root: '~root'}", "neither ~ nor $"),
        ("data={dataset: cifar10, root: /}", "not below"),
        ("search.evaluations=zero", "search.evaluations"),
        ("search.evaluations={a: &x 1, b: *x}", "alias"),
        ("search.evaluations={a: &x [*x]}", "alias"),
        ("model.arguments.weights=DEFAULT", "not taken from a network, as it downloads"),
        ("model.arguments.weights_backbone=DEFAULT", "not taken from a network, as it downloads"),
        ("model.arguments.pretrained=true", "not taken from a network, as it downloads"),
        ("model.arguments.width=1000001", "at most 1,000,000"),
        ("model.arguments.width=-1.0e+300", "at most 1,000,000"),
        ("model.arguments.width=.nan", "at most 1,000,000"),
        ("model.arguments.widths={a: [1, [.inf]]}", "at most 1,000,000"),
        ("model.arguments." + "a." * 100 + "a=1", "not understood"),
        ("search.population=1000000000", "search.population"),
        ("search.evaluations=99999999999999999999", "search.evaluations"),
        ("engine.workers=1000000000", "engine.workers"),
        ("data.image_size=1000000000", "data.image_size"),
        ("seed=!!bool maybe", "not YAML"),
        ("seed=!!timestamp x", "not YAML"),
        ("seed=" + "9" * 5000, "not YAML"),
        ("budget=[[[[[[[[[[[[[[1]]]]]]]]]]]]]]", "nested"),
    ],
)
def test_configs_from_a_network_name_only_what_is_here(change: str, message: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="(?s)" + message.replace("$", r"\$")):
        parse_remote_config(GOOD, [change], data)


def test_paths_in_a_config_from_a_network_start_from_the_data_folder(tmp_path: Path) -> None:
    change = "data={dataset: npz, root: sub, train: train.npz, test: ../test.npz}"
    config = parse_remote_config(GOOD, [change, "model.weights=w.safetensors"], tmp_path)
    assert config.model.weights == str(tmp_path.resolve() / "w.safetensors")
    assert config.data.train == str(tmp_path.resolve() / "sub" / "train.npz")
    assert config.data.test == str(tmp_path.resolve() / "test.npz")
    assert (
        parse_remote_config(GOOD, ["model.factory=torchvision:resnet18"], None).model.factory == "torchvision:resnet18"
    )
    for paths in (change, "data={dataset: cifar10}", "model.weights=w.safetensors"):
        with pytest.raises(ConfigError, match="no --data folder"):
            parse_remote_config(GOOD, [paths], None)


@given(text=st.text(max_size=200))
def test_any_text_is_a_config_or_refused_in_words(text: str) -> None:
    with suppress(ConfigError):
        assert parse_remote_config(text, [], None).model.factory


def test_other_refusals_of_configs() -> None:
    for text in ("", "- 1", "a: [", "x" * (MAX_CONFIG_SIZE + 1), "a: 2024-13-45", "? {a: 1}\n: 2", "[" * 5000):
        with pytest.raises(ConfigError):
            parse_remote_config(text, [], None)
    for good in ("search.evaluations=400", "finals.tuning.epochs=3", "engine.workers=2"):
        check_resume_overrides([good])
    for good in ("budget.macs=[0.2, 0.4]", "seed=3", "fitness.tuning.epochs=2", "engine.ray=local", "engine.threads=1"):
        check_fork_overrides([good])
    for bad in (
        "engine.ray=1.2.3.4:1",
        "engine={ray: x}",
        "model.factory=os:getcwd",
        "criteria.modules=[x]",
        "data.root=/",
    ):
        with pytest.raises(ConfigError, match="not taken from a network"):
            check_fork_overrides([bad])
    for bad in ("engine.ray=1.2.3.4:1", "engine={ray: x}", "budget.macs=0.1", "finals=", "search.evaluations"):
        with pytest.raises(ConfigError, match="not taken from a network"):
            check_resume_overrides([bad])


def test_wrong_requests_are_answered_in_one_line(client: TestClient) -> None:
    for body in ({"config": "model: {factory: 'os:getcwd'}"}, {"config": GOOD, "name": "../up"}, {"config": 3}, {}, []):
        answer = client.post("/api/runs", json=body, headers=BEARER)
        assert answer.status_code == 422 and "\n" not in answer.json()["error"]
    assert client.post("/api/runs", json={"config": GOOD, "name": "one"}, headers=BEARER).status_code == 409
    assert "finished" in client.post("/api/runs/one/resume", json={}, headers=BEARER).json()["error"]
    assert "no process" in client.post("/api/runs/one/stop", headers=BEARER).json()["error"]
    for path in ("/api/runs/absent", "/api/runs/absent/events", "/api/runs/one/exports/1/files", "/nowhere"):
        assert client.get(path, headers=BEARER).status_code == 404
    for path in ("resume", "exports", "fork"):
        assert client.post(f"/api/runs/absent/{path}", json={}, headers=BEARER).status_code == 404
