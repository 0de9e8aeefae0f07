"""Contract of all engines: each request returns once, with the right numbers or as failed."""

import copy
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from evaluations import make_evaluator, make_requests

from blendsearch.engine.base import Engine
from blendsearch.engine.factory import start_engine
from blendsearch.engine.ray_connection import authenticate, is_loopback_address
from blendsearch.engine.ray_engine import Worker, count_node_slots
from blendsearch.errors import EngineError
from blendsearch.fitness.evaluator import make_request
from blendsearch.runs.config.schema import EngineConfig
from blendsearch.testing.engines import check_failures, check_outcomes


@pytest.fixture(scope="module", params=["off", "local"])
def where(request: pytest.FixtureRequest) -> Iterator[str]:
    """Address of the engine; Ray is started once for all tests."""
    if request.param == "off":
        yield request.param
        return
    authenticate("local")
    import ray

    # room by counting for two engines at once
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield request.param
    ray.shutdown()


@pytest.fixture(scope="module")
def engine(where: str) -> Iterator[Engine]:
    started = start_engine(EngineConfig(ray=where, workers=2, threads=1, retries=1), make_evaluator())
    yield started
    started.close()


@pytest.mark.parametrize("fidelity", ["raw", "recalibrated", "tuned"])
def test_every_request_returns_once_and_equals_a_direct_evaluation(engine: Engine, fidelity: str) -> None:
    torch.set_num_threads(1)
    requests = make_requests(5, fidelity)
    outcomes = check_outcomes(engine, make_evaluator(), requests)
    assert len({outcome.loss for outcome in outcomes.values()}) > 1


def test_candidates_are_sliced_out_of_an_attached_network_and_the_dense_one_stays(where: str) -> None:
    torch.set_num_threads(1)
    held, requests = make_evaluator(), make_requests(3)
    tuned = copy.deepcopy(held.model)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.mul_(1.1)
    requests.append(make_request(held.maps.make_unpruned_cut(), "raw", 0))
    expected = dataclasses.replace(make_evaluator(), tuned=tuned)
    started = start_engine(EngineConfig(ray=where, workers=1, threads=1), held)
    dense = check_outcomes(started, make_evaluator(), requests)
    started.attach_tuned(tuned)
    found = check_outcomes(started, expected, requests)
    started.close()
    assert [found[item.digest].loss == dense[item.digest].loss for item in requests] == [False, False, False, True]


def test_an_evaluator_with_a_refit_or_a_tuned_network_equals_a_direct_evaluation(where: str) -> None:
    torch.set_num_threads(1)
    held, requests = make_evaluator(repair=True), make_requests(3)
    with torch.no_grad():
        tuned = copy.deepcopy(held.model)
        for parameter in tuned.parameters():
            parameter.mul_(1.1)
    held = dataclasses.replace(held, tuned=tuned)
    started = start_engine(EngineConfig(ray=where, workers=1, threads=1), held)
    outcomes = check_outcomes(started, held, requests)
    started.close()
    without_refit, without_tuned = dataclasses.replace(make_evaluator(), tuned=tuned), make_evaluator(repair=True)
    for item in requests:
        assert outcomes[item.digest].loss != without_refit.evaluate(item).loss, "it was not repaired"
        assert outcomes[item.digest].loss != without_tuned.evaluate(item).loss, "it was not sliced out of that network"


def test_a_failing_request_is_a_failed_outcome_and_others_succeed(engine: Engine) -> None:
    check_failures(engine, make_requests(3))


def test_a_missing_cluster_is_refused_in_one_line() -> None:
    with pytest.raises(EngineError, match="not supported"):
        start_engine(EngineConfig(ray="ray://somewhere:10001"), make_evaluator())


@pytest.mark.parametrize(
    ("gpus", "share", "places"), [(4, 1, 4), (1, 0.5, 2), (3, 0.1, 30), (2, 0.4, 4), (3, 2, 1), (0, 1, 0), (0, 0.5, 0)]
)
def test_a_share_of_a_gpu_is_of_one_gpu(gpus: float, share: float, places: int) -> None:
    assert count_node_slots(gpus, share) == places


def test_a_worker_on_half_a_gpu_may_use_half_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    capped: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", capped.append)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, place: self)  # there is no card here
    for share in (0.5, 1.0):
        Worker(make_evaluator(), 1, "cuda", share)
    assert capped == [0.5]


def test_another_machine_without_a_token_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(EngineError, match="no token is known") as refused:
        start_engine(EngineConfig(ray="10.11.12.13:6379"), make_evaluator())
    assert "\n" not in str(refused.value)
    monkeypatch.setenv("RAY_ADDRESS", "10.11.12.13:6379")
    with pytest.raises(EngineError, match="no token is known"):
        start_engine(EngineConfig(ray="auto"), make_evaluator())
    secret = "4f2c" * 8
    monkeypatch.setenv("RAY_AUTH_TOKEN", secret)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # the token would not be sent
    with pytest.raises(EngineError, match="no token is known") as refused:
        authenticate("head.example:6379")
    assert secret not in str(refused.value)
    monkeypatch.delenv("RAY_AUTH_MODE")
    authenticate("head.example:6379")
    assert os.environ["RAY_AUTH_MODE"] == "token"


@pytest.mark.parametrize(
    ("address", "own"),
    [
        *(("127.0.0.1:6379", True), ("localhost:1", True), ("[::1]:6379", True), ("http://127.0.0.1:8265", True)),
        *(("10.0.0.5:6379", False), ("head:6379", False), ("http://head:8265", False), ("0.0.0.0:1", False)),
    ],
)
def test_loopback_addresses_are_recognised(address: str, own: bool) -> None:
    assert is_loopback_address(address) == own
