"""Map of criteria: averages compared with values computed by hand, and the display order."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from blendsearch.blend.clustering import cluster, cluster_groups, compute_rank_correlation
from blendsearch.blend.correlation_map import CorrelationMap, build_correlation_map, compute_leaf_order
from blendsearch.criteria.table import ScoreTable, build_score_table
from blendsearch.errors import ConfigError

UP, DOWN, PAIRS = [1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0], [2.0, 1.0, 4.0, 3.0]  # rho(UP, PAIRS) = 0.6


def table(*groups: dict[str, list[float] | None]) -> ScoreTable:
    names = tuple(groups[0])
    sizes = {f"g{number}": len(next(row for row in group.values() if row)) for number, group in enumerate(groups)}
    rows = {name: {f"g{number}": group[name] for number, group in enumerate(groups)} for name in names}
    return build_score_table(names, rows, sizes)  # type: ignore[arg-type]


def mapped(of: ScoreTable, clusters: int = 2) -> CorrelationMap:
    return build_correlation_map(of, cluster_groups(of, "agglomerative", clusters, 0), "agglomerative", clusters, 0)


def test_each_pair_is_averaged_over_the_groups_that_have_both() -> None:
    of = table(
        {"a": UP, "b": PAIRS, "c": DOWN},
        {"a": UP, "b": UP, "c": None},
        {"a": [5.0], "b": [5.0], "c": [5.0]},  # one channel ranks nothing, and agrees with nothing
    )
    found = mapped(of)
    np.testing.assert_allclose(found.average, [[1, 0.8, -1], [0.8, 1, -0.6], [-1, -0.6, 1]])
    assert np.isnan(found.correlations[1, 2]).all() and np.isnan(found.correlations[2]).all()
    np.testing.assert_allclose(found.difference, [0.4 / 6, 0.2, np.nan])
    assert [found.channels, found.groups] == [(4, 4, 1), ("g0", "g1", "g2")]


def test_clusters_their_centres_and_their_mean_correlations() -> None:
    found = mapped(table({"a": UP, "b": [1.0, 2.0, 4.0, 3.0], "c": DOWN, "d": PAIRS}))
    assert [sorted(item.members) for item in found.clusters] == [[0, 1, 3], [2]]
    first, second = found.clusters
    assert (first.centre, second.centre) == (1, 2)  # b is 0.8 from a and from d, which are 0.6 from each other
    np.testing.assert_allclose([first.mean_inside, first.mean_to_others], [(0.8 + 0.8 + 0.6) / 3, (-1 - 0.8 - 0.6) / 3])
    assert np.isnan(second.mean_inside) and second.mean_to_others == pytest.approx(first.mean_to_others)
    assert found.mean_inside == pytest.approx(first.mean_inside) and found.mean_between == pytest.approx(
        first.mean_to_others
    )


def test_of_equal_centres_the_earliest_is_taken() -> None:
    found = mapped(table({"a": UP, "b": UP, "c": DOWN, "d": DOWN}))
    assert sorted(item.centre for item in found.clusters) == [0, 2]


def test_unusable_criteria_have_no_cluster_and_unknown_pairs_count_as_uncorrelated() -> None:
    found = mapped(table({"a": UP, "b": None, "c": None}, {"a": None, "b": None, "c": UP}))
    assert sorted(found.order) == [0, 2]
    assert np.isnan(found.average[0, 2]) and len(found.clusters) == 2 and np.isnan(found.mean_between)
    assert len(mapped(table({"a": UP, "b": None})).clusters) == 1
    with pytest.raises(ConfigError, match="no criterion"):
        mapped(table({"a": [1.0]}))


@st.composite
def correlations(draw: st.DrawFn) -> NDArray[np.float64]:
    n = draw(st.integers(1, 9))
    return compute_rank_correlation(draw(arrays(np.int64, (n, 6), elements=st.integers(0, 4))).astype(float))


@given(correlations(), st.integers(1, 5), st.sampled_from(["kmeans", "agglomerative"]))
def test_the_order_is_a_permutation_that_keeps_clusters_together(
    correlation: NDArray[np.float64], clusters: int, method: str
) -> None:
    labels = cluster(correlation, method, clusters, 0)  # type: ignore[arg-type]
    order = compute_leaf_order(correlation, labels)
    assert sorted(order) == list(range(len(correlation)))
    assert len(list(itertools.groupby(labels[order]))) == len(set(labels))
    np.testing.assert_array_equal(order, compute_leaf_order(correlation, labels))


@given(st.permutations(range(7)), st.integers(2, 6))
def test_neighbours_are_as_similar_as_possible(places: list[int], first: int) -> None:
    """Criteria along a line, in any order of the table, are returned in the order of the line."""
    line = np.asarray(places, dtype=float)
    correlation = 1 - np.abs(np.subtract.outer(line, line)) / 6
    order = compute_leaf_order(correlation, (line >= first).astype(np.int64))
    assert set(np.abs(np.diff(line[order]))) == {1.0}
