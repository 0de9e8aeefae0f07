"""Series of lost workers: few bad candidates fail, and a fault of all candidates stops the engine."""

from collections import deque

import pytest
from evaluations import make_requests

from blendsearch.engine.retries import LossSeries, PendingRequest, RetryQueue, describe_loss
from blendsearch.engine.telemetry import Telemetry
from blendsearch.errors import EngineError
from blendsearch.fitness.evaluator import Outcome

LIMIT = TimeoutError("not done after 2 s (engine.timeout)")


@pytest.fixture(scope="module")
def pending() -> list[PendingRequest]:
    return [PendingRequest(request) for request in make_requests(8)]


def lose(series: LossSeries, item: PendingRequest, workers: int, retries: int = 1) -> None:
    """Lose the worker of a request, as the engine does."""
    series.record(item, LIMIT, workers)
    series.withhold(RetryQueue(deque(), retries, Telemetry()).retry(item, 0, LIMIT, "killed"))


def copy_requests(pending: list[PendingRequest], number: int) -> list[PendingRequest]:
    return [PendingRequest(item.request) for item in pending[:number]]


def test_different_candidates_that_lose_their_workers_stop_the_engine(pending: list[PendingRequest]) -> None:
    series = LossSeries()
    first, second, third, *_ = copy_requests(pending, 8)
    lose(series, first, 1)
    lose(series, second, 1)
    with pytest.raises(EngineError, match="3 attempts at 3 candidates in a row") as stopped:
        lose(series, third, 1)
    assert "not done after 2 s (engine.timeout); raise that limit" in str(stopped.value)
    assert "\n" not in str(stopped.value)


def test_a_series_is_as_long_as_three_losses_per_worker(pending: list[PendingRequest]) -> None:
    series = LossSeries()
    items = copy_requests(pending, 8)
    for item in items[:5]:
        lose(series, item, 2)
    with pytest.raises(EngineError, match="6 attempts at 6 candidates"):
        lose(series, items[5], 2)


def test_without_retries_no_candidate_of_a_series_is_recorded_as_failed(pending: list[PendingRequest]) -> None:
    series = LossSeries()
    for item in copy_requests(pending, 4):
        lose(series, item, workers=8, retries=0)
        assert not [*series.iter_released()]
    with pytest.raises(EngineError, match="4 attempts at 4 candidates"):
        [*series.iter_released(is_last=True)]


@pytest.mark.parametrize("bad", [1, 2])
def test_few_bad_candidates_are_failed_outcomes(bad: int, pending: list[PendingRequest]) -> None:
    series = LossSeries()
    items = copy_requests(pending, bad)
    for item in [*items, *items, *items]:
        lose(series, item, workers=1, retries=2)
    assert not [*series.iter_released()]
    released = [*series.iter_released(is_last=True)]
    assert [outcome.digest for outcome in released] == [item.request.digest for item in items]
    assert all("not done after 2 s" in outcome.failure for outcome in released)


def test_retries_at_the_end_of_a_batch_are_no_series(pending: list[PendingRequest]) -> None:
    series = LossSeries()
    items = copy_requests(pending, 4)
    for item in items:  # each fails first between evaluations that finish
        lose(series, item, workers=1)
        series.end()
    for item in items:
        lose(series, item, workers=1)
    assert len([*series.iter_released(is_last=True)]) == 4


def test_a_finished_evaluation_ends_a_series_and_releases_failed_outcomes(pending: list[PendingRequest]) -> None:
    series = LossSeries()
    first, second, third, *_ = copy_requests(pending, 8)
    lose(series, first, 1, retries=0)
    lose(series, second, 1, retries=0)
    series.end()
    released: list[Outcome] = [*series.iter_released()]
    assert len(released) == 2 and not series.withheld
    lose(series, third, 1, retries=0)
    assert len([*series.iter_released(is_last=True)]) == 1


def test_the_exit_of_a_process_is_described_in_one_line() -> None:
    text = "The actor died.\n\tclass_name: Worker\nThe actor is dead because its worker process has died. "
    text += "Worker exit type: SYSTEM_ERROR Worker exit detail: End of file. Some common causes include: a kill.\nmore"
    assert describe_loss(RuntimeError(text)) == "End of file"
    assert describe_loss(RuntimeError("")) == "RuntimeError"
