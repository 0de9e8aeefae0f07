"""Fronts, knees and baselines, compared with brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_files import row

from blendsearch.runs.pareto import (
    compute_hypervolume,
    find_knee,
    find_non_dominated,
    select_best_baselines,
    select_front,
)
from blendsearch.runs.records import Evaluation


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=30))
def test_fronts_equal_those_of_comparing_all_pairs(points: list[tuple[int, int]]) -> None:
    table = np.array(points, dtype=float).reshape(-1, 2)
    expected = []
    for place, point in enumerate(points):
        beaten = (
            any(other != point and other[0] <= point[0] and other[1] <= point[1] for other in points)
            or point in points[:place]
        )
        expected.append(not beaten)
    assert find_non_dominated(table).tolist() == expected


def by_macs(item: Evaluation) -> tuple[float, ...]:
    return (item.macs / 100,)


def test_failed_evaluations_are_on_no_front() -> None:
    rows = [row(1, 0.5)._replace(macs=50), row(2, None)._replace(macs=10, error=None), row(3, 0.4)._replace(macs=60)]
    assert [item.id for item in select_front(rows, by_macs)] == [1, 3]
    assert select_front([], by_macs) == []


def test_the_knee_is_the_point_of_diminishing_returns() -> None:
    rows = [
        row(number, loss)._replace(macs=macs) for number, (loss, macs) in enumerate([(1, 10), (0.2, 20), (0.1, 90)])
    ]
    assert find_knee(rows, by_macs).id == 1
    assert find_knee(rows[:1], by_macs).id == 0


def test_the_hypervolume_of_one_point_is_its_rectangle() -> None:
    assert compute_hypervolume(np.array([[0.25, 0.4]])) == pytest.approx(0.75 * 0.6)
    assert compute_hypervolume(np.zeros((0, 2))) == 0


def test_the_best_baselines_are_selected_per_budget_even_with_a_shared_name() -> None:
    rows = [
        row(1, 0.9)._replace(origin="l1 uniform at 30% macs = l2 uniform at 30% macs", macs=30),
        row(2, 0.8)._replace(origin="fpgm global at 30% macs", macs=30),
        row(3, 0.7)._replace(origin="equal blend uniform at 30% macs", macs=30),
        row(4, 0.1)._replace(origin="evolved"),
        row(5, 0.6)._replace(origin="l1 uniform at 50% macs", macs=50),
        row(6, None)._replace(origin="fpgm uniform at 50% macs", macs=50),
    ]
    assert [item.id for item in select_best_baselines(rows)] == [2, 3, 5]
