"""The JSON API under whatever schemathesis makes of its description: no failures, nothing it does not describe."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable

pytest.importorskip("fastapi")
pytest.importorskip("schemathesis")
import schemathesis
from fastapi.testclient import TestClient
from schemathesis.specs.openapi.checks import positive_data_acceptance

from blendsearch.service.app import make_app
from blendsearch.service.security import Authenticator
from blendsearch.service.workspace import Workspace

TOKEN = "a-token-that-only-tests-know"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
EACH = 6
"""Requests per operation, as described and against it; twice for operations that name a run: any, and one that is."""


@pytest.fixture(scope="module")
def workspace(searched: Path) -> Workspace:
    return Workspace(searched)


@pytest.fixture(scope="module")
def app(workspace: Workspace) -> Any:
    return make_app(workspace, Authenticator(TOKEN), frozenset({"localhost", "testserver"}))


@pytest.fixture(scope="module")
def client(app: Any) -> TestClient:
    return TestClient(app)


@pytest.fixture(scope="module")
def operations(app: Any) -> list[Any]:
    api = schemathesis.openapi.from_asgi("/api/openapi.json", app, headers=BEARER)
    streams = "events$"  # they have no end
    return [found.ok() for found in api.exclude(path_regex=streams).get_all_operations()]


LAUGHS = "a: &a [x, x, x]\n" + "".join(f"b{n}: &b{n} [*a, *a, *a]\n" for n in range(100))
BOMBS = [
    LAUGHS,
    "a: &a [*a]",
    "[" * 60_000,
    "- " * 30_000,
    "{a: " * 10_000,
    "x" * 64_000,
    "x" * 64_001,
    "seed: " + "9" * 60_000,
    "seed: !!bool maybe",
    "seed: !!int ''",
    "seed: !!timestamp x",
    "seed: !!python/object/apply:os.getcwd []",
    "seed: 2024-99-99",
    "\ud800",
]
REFUSED = [
    "model: {factory: 'torchvision:fcn_resnet50', arguments: {weights_backbone: DEFAULT}}",
    "model: {factory: 'torchvision:fcn_resnet50', arguments: {num_classes: 1000000000}}",
    "".join(f"unknown{n}: 1\n" for n in range(4000)),
]


@pytest.mark.parametrize("change", [*BOMBS, *REFUSED, *(f"model.arguments={text}" for text in BOMBS)])
def test_bombs_are_refused_in_one_line_and_start_nothing(client: TestClient, workspace: Workspace, change: str) -> None:
    """As a config and as an override of a search, a resume and a fork."""
    example = client.get("/api/example", headers=BEARER).text
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/api/runs", {"config": change}),
        ("/api/runs", {"config": example, "set": [change]}),
        ("/api/runs/one/resume", {"set": [change]}),
        ("/api/runs/one/fork", {"set": [change]}),
    ]
    for path, body in bodies:
        answer = client.post(path, content=json.dumps(body), headers=BEARER | {"content-type": "application/json"})
        assert 400 <= answer.status_code < 500
        assert "\n" not in answer.json()["error"] and len(answer.json()["error"]) < 30_000
    assert not workspace.processes.list_names()


@pytest.mark.parametrize("body", [b"[" * 10_000, b'{"config":' * 10_000, b"\xff", b'{"config": 1e999}', b"1" * 6000])
def test_deep_and_broken_json_is_refused(client: TestClient, body: bytes) -> None:
    answer = client.post("/api/runs", content=body, headers=BEARER | {"content-type": "application/json"})
    assert 400 <= answer.status_code < 500 and "\n" not in answer.json()["error"]


@pytest.mark.parametrize("mode", [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE])
@pytest.mark.parametrize("there", [False, True], ids=["any", "there"])
def test_every_operation_keeps_its_word(operations: list[Any], there: bool, mode: Any) -> None:
    """Status, media type, headers and body are as described, and what is wrong is refused.

    That what fits its description is taken is not asked: a text may be one and still no config.
    """
    asked = 0
    for operation in operations:
        # what would start processes is asked about runs that are not there
        if there and ("{run}" not in operation.path or operation.method.upper() != "GET"):
            continue

        @seed(0)
        @settings(max_examples=EACH, phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None)
        @given(case=operation.as_strategy(generation_mode=mode))
        def keeps(case: Any) -> None:
            nonlocal asked
            if there:
                case.path_parameters["run"] = "one"
            answer = case.call(headers=BEARER)
            if answer.status_code != 413:  # a refusal too, which the check of refusals does not know
                case.validate_response(answer, excluded_checks=[positive_data_acceptance])
            asked += 1

        with suppress(Unsatisfiable):  # nothing in it can be wrong
            keeps()
    assert asked > EACH
