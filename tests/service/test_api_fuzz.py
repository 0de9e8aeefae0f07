"""The JSON API under whatever schemathesis makes of its description: no failures, nothing it does not describe."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable

pytest.importorskip("fastapi")
pytest.importorskip("schemathesis")
import schemathesis
from schemathesis.specs.openapi.checks import positive_data_acceptance

from blendsearch.service.app import make_app
from blendsearch.service.security import Authenticator
from blendsearch.service.workspace import Workspace

TOKEN = "a-token-that-only-tests-know"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
EACH = 6
"""Requests per operation, as described and against it; twice for operations that name a run: any, and one that is."""


@pytest.fixture(scope="module")
def operations(searched: Path) -> list[Any]:
    app = make_app(Workspace(searched), Authenticator(TOKEN), frozenset({"localhost", "testserver"}))
    api = schemathesis.openapi.from_asgi("/api/openapi.json", app, headers=BEARER)
    streams = "events$"  # they have no end
    return [found.ok() for found in api.exclude(path_regex=streams).get_all_operations()]


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
