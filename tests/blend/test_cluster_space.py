"""One weight per cluster of criteria: against a loop over groups, clusters and members."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blendsearch.blend.cluster_space import ClusterSpace, Members, make_cluster_space
from blendsearch.blend.clustering import merge_clusters
from blendsearch.blend.correlation_map import cluster_network
from blendsearch.blend.genome import unflatten_genome
from blendsearch.criteria.table import ScoreTable, build_score_table

NAMES = ("a", "a2", "b", "b2", "c", "never")
SIZES = {"one": 8, "two": 6, "three": 5}


def make_table() -> ScoreTable:
    """Scores in which a and a2, b and b2 agree; c is unusable in one group, never in all."""
    rng = np.random.default_rng(0)
    base = {name: {group: rng.random(size) for group, size in SIZES.items()} for name in ("a", "b", "c")}
    rows = {
        "a": base["a"],
        "a2": {group: 2 * values for group, values in base["a"].items()},
        "b": base["b"],
        "b2": {group: values**3 for group, values in base["b"].items()},
        "c": {group: values for group, values in base["c"].items() if group != "two"},
        "never": {},
    }
    return build_score_table(NAMES, rows, SIZES)


TABLE = make_table()
CLUSTERS = cluster_network(TABLE, "kmeans", 3, 0)


def make_space(members: Members = "weights", deviations: bool = True) -> ClusterSpace:
    return make_cluster_space(TABLE, CLUSTERS, deviations, members)


def test_criteria_that_agree_share_a_cluster_in_every_group_that_can_use_them() -> None:
    assert CLUSTERS == (((0, 1), (2, 3), (4,)), ((0, 1), (2, 3)), ((0, 1), (2, 3), (4,)))
    assert make_space().network_clusters == ((0, 1), (2, 3), (4,))


def test_clusters_that_share_a_criterion_in_any_group_are_one() -> None:
    assert merge_clusters((((3, 1),), ((1, 0), (2,)), ()), 5) == ((0, 1, 3), (2,))


def compute_by_loops(space: ClusterSpace, blend: np.ndarray) -> np.ndarray:
    clusters, n = space.network_clusters, len(NAMES)
    weight, gene, deviation = blend[: len(clusters)], blend[len(clusters) :][:n], blend[len(clusters) + n :]
    found = np.zeros((space.groups, n))
    for group in range(space.groups):
        for number, members in enumerate(clusters):
            usable = [row for row in members if np.isfinite(space.ranks[group][row, 0])]
            if not usable:
                continue
            total = np.exp(4 * weight[number] + 2 * deviation[group * len(clusters) + number])
            if space.members == "choice":
                found[group, max(usable, key=lambda row: (gene[row], -row))] = total
                continue
            parts = [np.exp(4 * gene[row]) for row in usable]
            for row, part in zip(usable, parts, strict=True):
                found[group, row] = total * part / sum(parts)
    return found / found.max(axis=1, keepdims=True)


@pytest.mark.parametrize("members", ["weights", "choice", "mean"])
@given(seed=st.integers(0, 10_000))
def test_weights_are_those_of_a_loop(members: Members, seed: int) -> None:
    space = make_space(members)
    blend = np.random.default_rng(seed).uniform(-1, 1, space.genes)
    found = space.compute_weights(space.make_uniform_genome(blend))
    by_loops = compute_by_loops(space, blend)
    assert found / found.max(axis=1, keepdims=True) == pytest.approx(by_loops)
    assert found.max() <= 1 and (found[:, 5] == 0).all()


@given(seed=st.integers(0, 10_000), deviations=st.booleans())
def test_a_genome_is_read_back_from_its_description(seed: int, deviations: bool) -> None:
    space = make_space(deviations=deviations)
    genome = space.sample(np.random.default_rng(seed))
    again = space.parse_genome(space.describe(genome))
    assert again.flatten() == genome.flatten()
    assert unflatten_genome(space, genome.flatten()).flatten() == genome.flatten()


@pytest.mark.parametrize("members", ["weights", "choice", "mean"])
def test_one_criterion_has_almost_all_weight(members: Members) -> None:
    space = make_space(members)
    for row in range(5):
        weights = space.compute_weights(space.make_single_criterion(row))
        for group in range(space.groups):
            if np.isfinite(space.ranks[group][row, 0]):
                assert weights[group, row] > 0.99 * weights[group].sum()
    equal = space.make_equal_blend()
    assert (space.make_single_criterion(5).blend == equal.blend).all()


def test_the_equal_blend_gives_every_usable_criterion_the_same_weight() -> None:
    weights = make_space().compute_weights(make_space().make_equal_blend())
    assert weights[0, :5] == pytest.approx(weights[0, 0]) and weights[1, :4] == pytest.approx(weights[1, 0])


@given(seed=st.integers(0, 10_000))
def test_a_blend_made_from_weights_has_them(seed: int) -> None:
    space, asked = make_space(), np.random.default_rng(seed).uniform(-1, 0, len(NAMES))
    weights = space.compute_weights(space.make_uniform_genome(space.make_blend(asked)))[0, :5]
    assert weights / weights.max() == pytest.approx(np.exp(4 * (asked[:5] - asked[:5].max())), rel=1e-6)


def test_members_of_equal_share_do_not_vary() -> None:
    space = make_space("mean")
    assert (space.spread[3:9] == 0).all() and (space.make_blend(np.linspace(-1, 0, 6))[3:9] == 0).all()
