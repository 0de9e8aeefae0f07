"""One contract for every engine: each request comes back once, right, or as failed."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from blendsearch.engine.engine import Engine, start_engine
from blendsearch.errors import EngineError
from blendsearch.fitness.data import DataSpec, load_splits
from blendsearch.fitness.evaluation import Evaluator, Outcome, request
from blendsearch.fitness.recovery import Recipe
from blendsearch.fitness.training import Schedule
from blendsearch.runs.config import EngineConfig
from blendsearch.structure.trace import trace
from blendsearch.zoo.digits_net import digits_net


def evaluator() -> Evaluator:
    torch.manual_seed(0)
    model = digits_net(width=8)
    structure = trace(model, (1, 8, 8))
    splits = load_splits(DataSpec("digits"), 0)
    recipe = Recipe(64, 50, Schedule(0.2, 0.05, 32), Schedule(0.4, 0.05, 32))
    return Evaluator(model.eval(), structure.maps, splits, recipe, torch.device("cpu"))


@pytest.fixture(scope="module", params=["off", "local"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    started = start_engine(EngineConfig(ray=request.param, workers=2, threads=1, retries=1), evaluator())
    yield started
    started.close()


def asked(number: int, fidelity: str = "recalibrated") -> list:
    held = evaluator()
    rng = np.random.default_rng(0)
    cuts = [rng.random(held.maps.channels) < 0.7 for _ in range(number)]
    for cut in cuts:
        cut[held.maps.offsets[:-1]] = True
    return [request(cut, fidelity, 0) for cut in cuts]


def collect(engine: Engine, requests: list) -> dict[str, Outcome]:
    for item in requests:
        engine.submit(item)
    outcomes = list(engine.completed())
    assert len(outcomes) == len(requests)
    return {outcome.digest: outcome for outcome in outcomes}


@pytest.mark.parametrize("fidelity", ["raw", "recalibrated", "tuned"])
def test_every_request_comes_back_once_with_the_numbers_of_a_direct_evaluation(engine: Engine, fidelity: str) -> None:
    torch.set_num_threads(1)
    requests = asked(5, fidelity)
    outcomes = collect(engine, requests)
    direct = evaluator()
    for item in requests:
        expected = direct.evaluate(item)
        assert outcomes[item.digest]._replace(seconds=0) == expected._replace(seconds=0)
    assert len({outcome.loss for outcome in outcomes.values()}) > 1


def test_a_request_that_cannot_be_evaluated_comes_back_as_failed_and_the_rest_is_not_disturbed(engine: Engine) -> None:
    good = asked(3)
    nothing_left = good[0]._replace(cut=bytes(len(good[0].cut)), digest="nothing")
    unknown = good[0]._replace(fidelity="perfect", digest="unknown")
    outcomes = collect(engine, [good[0], nothing_left, good[1], unknown, good[2]])
    assert all(not outcomes[item.digest].failure for item in good)
    assert "perfect" in outcomes["unknown"].failure
    assert outcomes["nothing"].failure
    assert not list(engine.completed())


def test_a_cluster_that_is_not_there_is_refused_in_one_line() -> None:
    with pytest.raises(EngineError, match="not supported"):
        start_engine(EngineConfig(ray="ray://somewhere:10001"), evaluator())
