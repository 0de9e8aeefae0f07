"""Properties of every criterion of the pool."""

import numpy as np
import pytest
from criteria_nets import NETS, draw_images, make_net, make_views, trace_net

from blendsearch.criteria.registry import CRITERIA, load_pool, select_criteria
from blendsearch.criteria.score import compute_score_table
from blendsearch.testing import check_criterion, check_criterion_facts

load_pool()
NAMES = tuple(CRITERIA)
NO_BATCH_NORM = {"bn_gamma", "bn_beta", "taylor_gamma", "taylor_beta"}


@pytest.fixture(scope="module", params=NETS)
def network(request):
    model = make_net(request.param)
    return request.param, model, trace_net(model)


@pytest.mark.parametrize("name", NAMES)
def test_scores_rank_every_group_and_do_not_change_the_network(network, name):
    _, model, structure = network
    (criterion,) = select_criteria([name])
    # the feature map of a feature is one number, and all of a strided conv's maps may well be of full rank
    skipped = check_criterion(criterion, model, structure, draw_images(), constant=name == "hrank")
    assert not skipped or name in NO_BATCH_NORM
    assert all(
        not view.get_batch_norms() for group, view in make_views(model, structure, None).items() if group in skipped
    )


def test_hrank_distinguishes_channels_with_large_maps():
    model = make_net("residual")
    table = compute_score_table(
        model, trace_net(model), select_criteria(["hrank"]), lambda: [draw_images(32)], np.random.default_rng(0)
    )
    assert any(np.ptp(scores[0]) > 0 for scores in table.scores)


def test_the_table_is_the_same_for_the_same_generator_and_any_batches(network):
    _, model, structure = network
    images, labels = draw_images(24)

    def table(batch, seed=0):
        batches = list(zip(images.split(batch), labels.split(batch), strict=True))
        return compute_score_table(
            model, structure, select_criteria(NAMES), lambda: batches, np.random.default_rng(seed)
        )

    whole, again, pieces = table(24), table(24), table(5)
    for one, same, other in zip(whole.scores, again.scores, pieces.scores, strict=True):
        np.testing.assert_array_equal(one, same)
        spread = np.abs(np.nan_to_num(one)).max(axis=1, keepdims=True) + 1e-30
        np.testing.assert_allclose(one / spread, other / spread, atol=2e-4)
    assert whole.left_out == pieces.left_out
    control = whole.criteria.index("random")
    assert not np.array_equal(whole.scores[0][control], table(24, seed=1).scores[0][control])


@pytest.mark.parametrize("name", NAMES)
def test_every_criterion_states_formula_source_and_cost(name):
    check_criterion_facts(CRITERIA[name])
