"""Ranks and Kendall's tau equal those of SciPy, bit for bit: stored runs show the same numbers."""

import numpy as np
from scipy.stats import kendalltau, rankdata

from blendsearch.blend.ranking import rank_rows
from blendsearch.results.agreement import compute_kendall_tau
from blendsearch.runs.pareto import find_non_dominated, mark_non_dominated


def test_ranks_equal_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    for columns in (1, 2, 7, 64):
        scores = rng.integers(0, columns, (20, columns)).astype(float)
        scores[3, 0] = np.nan
        assert np.array_equal(rank_rows(scores), rankdata(scores, axis=1), equal_nan=True)
    assert rank_rows(np.zeros((2, 0))).shape == (2, 0)


def test_taus_equal_those_of_scipy() -> None:
    rng = np.random.default_rng(1)
    for count in (2, 3, 10, 300):
        for values in (3, 10**6):
            pairs = rng.integers(0, values, (count, 2)).astype(float)
            expected = float(kendalltau(pairs[:, 0], pairs[:, 1]).statistic)
            found = compute_kendall_tau([tuple(pair) for pair in pairs.tolist()])
            assert found == expected or (np.isnan(found) and np.isnan(expected))


def test_the_front_of_two_objectives_is_that_of_moocore() -> None:
    rng = np.random.default_rng(2)
    for count in (0, 1, 2, 50):
        points = rng.integers(0, 12, (count, 2)).astype(float)
        assert mark_non_dominated([tuple(point) for point in points.tolist()]) == find_non_dominated(points).tolist()
