"""Clusters, genomes and allocations: properties of every genome and every budget."""

from dataclasses import replace

import numpy as np
import pytest
from decoders import DECODER, NAMES, RESNET, make_decoder
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from blendsearch.blend.allocation import (
    RoundTo,
    allocate,
    allocate_globally,
    check_reachable,
    compute_min_ratios,
    compute_shares,
    make_widths,
)
from blendsearch.blend.clustering import cluster, cluster_groups, compute_rank_correlation
from blendsearch.blend.decoder import Decoder, keep_best
from blendsearch.blend.genome import Genome, Space, blend_ranks, normalize_ranks
from blendsearch.blend.group_space import make_group_space
from blendsearch.criteria.table import build_score_table
from blendsearch.errors import BudgetError
from blendsearch.structure.peak_memory import trace_peak_memory
from blendsearch.structure.trace import trace_structure
from blendsearch.zoo.cifar_resnet import cifar_resnet
from blendsearch.zoo.digits_net import digits_net
from blendsearch.zoo.factory import build_model

SMALL = trace_structure(digits_net(), (1, 8, 8))
MODEL = build_model("torchvision:resnet18").eval()
NET = trace_structure(MODEL, (3, 64, 64))
PEAK = trace_peak_memory(MODEL, NET.maps, (3, 64, 64))
ORACLE = NET.oracle.add_cost("memory", PEAK, int(PEAK(NET.maps.sizes)))
TOGETHER = ["memory", "macs memory", "params memory", "macs params memory", "macs params"]


def scores_of(space: Space, genome: Genome) -> list[np.ndarray]:
    return blend_ranks(space.ranks, space.compute_weights(genome))


@given(st.integers(2, 6), st.integers(3, 30), st.integers(0, 1000))
def test_rank_correlation_is_spearmans(criteria: int, channels: int, seed: int) -> None:
    scores = np.random.default_rng(seed).integers(0, 8, (criteria, channels)).astype(float)
    scores[:, 0] += np.arange(criteria) + 100  # no row is constant
    found = compute_rank_correlation(scores)
    expected = [[spearmanr(one, other).statistic for other in scores] for one in scores]
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("method", ["kmeans", "agglomerative"])
@pytest.mark.parametrize("clusters", [3, "silhouette"])
def test_criteria_that_rank_alike_share_a_cluster(method: str, clusters: object) -> None:
    rng = np.random.default_rng(0)
    families = [rng.random(64) for _ in range(3)]
    scores = np.array([family + rng.normal(0, 0.05, 64) for family in families for _ in range(4)])
    labels = cluster(compute_rank_correlation(scores), method, clusters, 0)
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_clusters_have_no_more_than_there_are_criteria_or_distinct_rankings() -> None:
    assert cluster(np.ones((4, 4)), "kmeans", 3, 0).tolist() == [0, 0, 0, 0]
    assert set(cluster(np.eye(2), "agglomerative", 3, 0).tolist()) == {0, 1}
    assert cluster(np.ones((1, 1)), "kmeans", "silhouette", 0).tolist() == [0]


@given(st.integers(0, 10_000), st.floats(0.08, 1.0))
def test_no_genome_exceeds_its_budget_and_all_nearly_reach_it(seed: int, ratio: float) -> None:
    rng = np.random.default_rng(seed)
    held = make_decoder(budget=(ratio, ratio))
    genome = held.space.sample(rng)._replace(share=rng.uniform(-1, 1, held.space.groups))
    counts = RESNET.maps.count_kept(held.decode(genome))
    found = float(RESNET.oracle.compute_ratio("macs", counts))
    assert found <= ratio
    steps = (counts + np.eye(len(counts), dtype=int))[counts < held.allowed.sizes]
    # near the dense network nothing but whole streams may be left to give back, 2 % of all MACs a channel
    assert found >= ratio - 0.005 or all(RESNET.oracle.compute_ratio("macs", row) > ratio for row in steps)
    assert (counts >= held.allowed.low).all()
    assert (counts <= held.allowed.sizes).all()


@given(st.integers(0, 10_000), st.sampled_from([2, 4, 8]), st.sampled_from(["macs", "params"]))
def test_widths_are_multiples_and_the_budget_holds(seed: int, step: int, cost: str) -> None:
    held = make_decoder(budget=(0.6, 0.6), round_to=step, cost=cost)
    counts = RESNET.maps.count_kept(held.decode(held.space.sample(np.random.default_rng(seed))))
    assert (counts % step == 0).all()
    assert float(RESNET.oracle.compute_ratio(cost, counts)) <= 0.6


def test_two_budgets_hold_together() -> None:
    held = Decoder(
        DECODER.space, DECODER.table, RESNET.oracle, DECODER.allowed, {"macs": (0.5, 0.5), "params": (0.3, 0.3)}
    )
    for seed in range(10):
        counts = RESNET.maps.count_kept(held.decode(held.space.sample(np.random.default_rng(seed))))
        macs, params = (float(RESNET.oracle.compute_ratio(name, counts)) for name in ("macs", "params"))
        assert macs <= 0.5
        assert params <= 0.3
        assert macs > 0.49 or params > 0.295


@given(st.integers(0, 10_000), st.sampled_from(TOGETHER), st.floats(0.12, 0.95), st.sampled_from([1, 8, "auto"]))
def test_every_combination_of_budgets_is_met_and_used_up(seed: int, names: str, ratio: float, step: RoundTo) -> None:
    rng = np.random.default_rng(seed)
    allowed = make_widths(NET.maps.sizes, 2, 0.02, step)
    least = compute_min_ratios(ORACLE, allowed)
    budget = {name: max(least[name], ratio ** rng.uniform(0.7, 1.4)) for name in names.split()}
    share = rng.uniform(-1, 1, len(NET.maps.groups))
    scores = [rng.lognormal(0, 1, size) for size in NET.maps.sizes]
    for counts in (
        allocate(ORACLE, allowed, budget, share),
        allocate_globally(ORACLE, allowed, budget, scores),
    ):
        assert all(ORACLE.compute_ratio(name, counts) <= most for name, most in budget.items())
        near = any(
            ORACLE.compute_ratio(name, counts) >= budget[name] - 0.001 for name in names.split() if name != "memory"
        )
        wider = np.minimum((counts // allowed.step + 1) * allowed.step, allowed.sizes)
        steps = np.where(np.eye(len(counts), dtype=bool), wider, counts)[counts < allowed.sizes]
        # nothing is left over: a budget is reached, or no group can be one step wider
        assert near or all(any(ORACLE.compute_ratio(name, row) > budget[name] for name in budget) for row in steps)


def test_automatic_steps_leave_every_group_four_widths() -> None:
    sizes = np.array([4, 7, 8, 15, 16, 24, 31, 32, 64, 1280])
    allowed = make_widths(sizes, 1, 0.0, "auto")
    assert allowed.step.tolist() == [1, 1, 2, 2, 4, 4, 4, 8, 8, 8]
    assert (sizes // allowed.step >= 4).all()
    assert allowed.low.tolist() == [1, 1, 2, 2, 4, 4, 4, 4, 4, 4]
    assert allowed.widen(allowed.low).tolist() == [2, 2, 4, 4, 8, 8, 8, 8, 8, 8]
    assert allowed.narrow(allowed.widen(allowed.low)).tolist() == allowed.low.tolist()
    assert allowed.narrow(np.array([4, 7, 8, 15, 16, 24, 31, 32, 64, 1275])).tolist() == [
        *(3, 6, 6, 14, 12, 20, 28, 24, 56, 1272)
    ]
    harder = make_widths(sizes, 1, 0.0, "auto", 0.125)  # a uniform cut keeps about a third of each group
    assert harder.step.tolist() == [1, 1, 1, 1, 1, 2, 2, 2, 4, 8]


@given(st.integers(0, 10_000), st.floats(0.2, 0.7))
def test_budgets_land_with_automatic_steps(seed: int, ratio: float) -> None:
    allowed = make_widths(RESNET.maps.sizes, 2, 0.05, "auto")
    share = np.random.default_rng(seed).uniform(-0.5, 0.5, len(RESNET.maps.groups))
    counts = allocate(RESNET.oracle, allowed, {"macs": ratio}, share)
    assert ratio - 0.01 <= float(RESNET.oracle.compute_ratio("macs", counts)) <= ratio
    assert ((counts % allowed.step == 0) | (counts == allowed.sizes) | (counts == allowed.low)).all()


def test_exchanges_use_up_a_budget_that_coarse_steps_leave() -> None:
    structure = trace_structure(cifar_resnet(20), (3, 32, 32))
    coarse = make_widths(structure.maps.sizes, 2, 0.05, "auto")
    left = []
    for allowed in (coarse, replace(coarse, exchanges=False)):
        rng = np.random.default_rng(0)
        shares = [rng.uniform(-1, 1, len(coarse.sizes)) * rng.random() for _ in range(40)]
        ratios = [
            structure.oracle.compute_ratio("macs", allocate(structure.oracle, allowed, {"macs": 0.5}, row))
            for row in shares
        ]
        left.append(sum(float(ratio) < 0.495 for ratio in ratios))
    assert left[0] <= 2 < 8 <= left[1]


def test_a_memory_budget_does_not_cut_outside_the_peak() -> None:
    allowed = make_widths(NET.maps.sizes, 2, 0.02, 1)
    counts = allocate(ORACLE, allowed, {"memory": 0.5}, np.zeros(len(NET.maps.groups)))
    assert 0.495 <= float(ORACLE.compute_ratio("memory", counts)) <= 0.5
    kept = dict(zip([group.name for group in NET.maps.groups], counts / NET.maps.sizes, strict=True))
    assert kept["conv1"] < 0.5 < 0.9 < kept["layer4.1.conv1"]


def test_a_budget_of_memory_out_of_reach_is_refused_with_the_range() -> None:
    with pytest.raises(BudgetError, match=r"dense memory: reachable is .* to 100 % \([\d,]+ to [\d,]+ bytes\)"):
        check_reachable(ORACLE, make_widths(NET.maps.sizes, 2, 0.02, 1), {"macs": 0.5, "memory": 0.001})


def test_allocation_equals_exhaustive_search() -> None:
    """On a small network: no single group can be widened within the budget."""
    allowed = make_widths(SMALL.maps.sizes, 2, 0.0, 1)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        budget = {"macs": float(rng.uniform(0.1, 0.9))}
        counts = allocate(SMALL.oracle, allowed, budget, rng.uniform(-0.3, 0.3, len(allowed.sizes)))
        assert SMALL.oracle.compute_ratio("macs", counts) <= budget["macs"]
        wider = [counts + np.eye(len(counts), dtype=int)[group] for group in np.flatnonzero(counts < allowed.sizes)]
        close = budget["macs"] - float(SMALL.oracle.compute_ratio("macs", counts)) <= 0.001
        assert close or all(SMALL.oracle.compute_ratio("macs", row) > budget["macs"] for row in wider)


def test_shares_of_zero_are_the_uniform_allocation() -> None:
    counts = RESNET.maps.count_kept(DECODER.decode(DECODER.space.make_equal_blend()))
    kept = counts / RESNET.maps.sizes
    assert np.ptp(kept) <= 1 / RESNET.maps.sizes.min() + 1e-9


def test_a_larger_share_keeps_more_of_that_group() -> None:
    genome = DECODER.space.make_equal_blend()
    even = RESNET.maps.count_kept(DECODER.decode(genome))
    share = genome.share.copy()
    share[4] = 0.2
    more = RESNET.maps.count_kept(DECODER.decode(genome._replace(share=share)))
    assert more[4] > even[4]


def test_global_allocation_keeps_the_best_scores_of_the_network() -> None:
    rng = np.random.default_rng(5)
    scores = [rng.random(size) * (group + 1) for group, size in enumerate(RESNET.maps.sizes)]
    counts = allocate_globally(RESNET.oracle, DECODER.allowed, {"macs": 0.5}, scores)
    assert 0.495 <= float(RESNET.oracle.compute_ratio("macs", counts)) <= 0.5
    free = (counts > DECODER.allowed.low) & (counts < DECODER.allowed.sizes)
    last_kept = [np.sort(scores[group])[::-1][counts[group] - 1] for group in np.flatnonzero(free)]
    first_gone = [np.sort(scores[group])[::-1][counts[group]] for group in np.flatnonzero(free)]
    # one threshold parts them, but for the few channels that fill up the budget
    assert np.quantile(first_gone, 0.9) <= np.quantile(last_kept, 0.1) * 1.2


def test_a_global_allocation_is_a_point_of_the_space() -> None:
    rng = np.random.default_rng(6)
    scores = [rng.lognormal(0, 0.5, size) for size in RESNET.maps.sizes]
    wanted = allocate_globally(RESNET.oracle, DECODER.allowed, {"macs": 0.5}, scores)
    genome = DECODER.space.make_equal_blend()._replace(share=compute_shares(wanted, RESNET.maps.sizes))
    found = RESNET.maps.count_kept(DECODER.decode(genome))
    assert np.abs(found - wanted).max() <= 2
    assert np.abs(found - wanted).sum() <= 0.02 * wanted.sum()


@pytest.mark.parametrize("row", range(len(NAMES)))
def test_every_single_criterion_is_a_point_of_the_space(row: int) -> None:
    for scores, table in zip(
        scores_of(DECODER.space, DECODER.space.make_single_criterion(row)), DECODER.table.scores, strict=True
    ):
        assert np.argsort(scores, kind="stable").tolist() == np.argsort(table[row], kind="stable").tolist()


def test_the_equal_blend_is_the_mean_of_all_normalised_ranks() -> None:
    for scores, ranks in zip(
        scores_of(DECODER.space, DECODER.space.make_equal_blend()), DECODER.space.ranks, strict=True
    ):
        np.testing.assert_allclose(scores, ranks.mean(axis=0), atol=1e-12)


def test_scaling_all_calibration_factors_changes_no_cut() -> None:
    genome = DECODER.space.sample(np.random.default_rng(1))
    space = DECODER.space
    halved = space.make_genome(space.get_choices(genome), space.get_factors(genome) * 0.5)._replace(share=genome.share)
    assert (DECODER.decode(genome) == DECODER.decode(halved)).all()


def test_a_criterion_left_out_of_a_group_is_not_blended_there() -> None:
    sizes = {"x": 6, "y": 6}
    rows = {
        "a": {"x": np.arange(6.0), "y": np.arange(6.0)},
        "b": {"x": np.full(6, np.nan), "y": np.arange(6.0)[::-1]},
        "c": {"x": np.ones(6), "y": None},
        "d": {"x": np.arange(5.0), "y": RuntimeError("no such layer")},
    }
    table = build_score_table(tuple(rows), rows, sizes)
    reasons = {(item.criterion, item.group): item.reason for item in table.left_out}
    assert reasons == {
        ("b", "x"): "returned 6 scores that are not finite",
        ("c", "x"): "returned the same score for every channel",
        ("d", "x"): "returned scores of shape (5,), expected (6,)",
        ("c", "y"): "does not apply",
        ("d", "y"): "failed with RuntimeError: no such layer",
    }
    space = make_group_space(table, cluster_groups(table, "kmeans", 3, 0))
    first, second = scores_of(space, space.make_equal_blend())
    assert np.argsort(first).tolist() == [0, 1, 2, 3, 4, 5]
    np.testing.assert_allclose(second, 0.5)
    assert all(np.isfinite(part).all() for part in scores_of(space, space.make_single_criterion(1)))


@given(st.integers(1, 5), st.integers(1, 20), st.integers(0, 1000))
def test_normalised_ranks_are_in_the_unit_interval_and_keep_the_order(rows: int, channels: int, seed: int) -> None:
    scores = np.random.default_rng(seed).normal(size=(rows, channels))
    ranks = normalize_ranks(scores)
    assert ranks.min() >= 0
    assert ranks.max() <= 1
    assert (np.argsort(ranks, axis=1) == np.argsort(scores, axis=1)).all()


def test_a_budget_out_of_reach_is_refused_with_the_range() -> None:
    least = compute_min_ratios(RESNET.oracle, DECODER.allowed)["macs"]
    with pytest.raises(BudgetError, match=rf"reachable is {least:.1%} to 100 %"):
        make_decoder(budget=(least / 2, least / 2))


def test_random_genomes_differ() -> None:
    rng = np.random.default_rng(0)
    cuts = {DECODER.decode(DECODER.space.sample(rng)).tobytes() for _ in range(64)}
    assert len(cuts) == 64


def test_the_best_channels_are_kept_and_of_equals_the_first() -> None:
    cut = keep_best([np.array([0.1, 0.9, 0.5]), np.array([1.0, 1.0])], np.array([2, 1]))
    assert cut.tolist() == [False, True, True, True, False]


@given(
    values=st.lists(st.sampled_from([0.0, -0.0, 0.25, 0.5, 1.0, np.inf, -np.inf, np.nan]), min_size=1, max_size=12),
    count=st.integers(0, 13),
)
def test_the_kept_channels_are_those_that_a_stable_sort_puts_first(values: list[float], count: int) -> None:
    scores = np.array(values)
    expected = np.zeros(len(scores), dtype=np.bool_)
    expected[np.argsort(-scores, kind="stable")[:count]] = True
    assert keep_best([scores], np.array([count])).tolist() == expected.tolist()


def test_targets_move_the_budget_over_the_span() -> None:
    held = make_decoder(budget=(0.3, 0.7))
    assert held.has_budget_range
    genome: Genome = held.space.make_equal_blend()
    found = [
        float(RESNET.oracle.compute_ratio("macs", RESNET.maps.count_kept(held.decode(genome._replace(target=t)))))
        for t in (0, 0.5, 1)
    ]
    np.testing.assert_allclose(found, [0.3, 0.5, 0.7], atol=0.005)
