"""Scores compared with the true loss change of removing a channel, and invariances of scores."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from criteria_nets import EVERY, draw_images, make_net, make_views, probe_net, trace_net
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from torch import nn

from blendsearch.criteria.probe import Subsample, probe
from blendsearch.criteria.registry import CRITERIA, load_pool
from blendsearch.structure.trace import trace_structure
from blendsearch.structure.verify import mask_channels

load_pool()


def score(name, view):
    with torch.no_grad():
        return CRITERIA[name].score(view).double().numpy()


def faded(model, maps, start, channel, share):
    """Copy the network with one channel scaled to `share` in all of its readers."""
    cut = maps.make_unpruned_cut()
    cut[start + channel] = False
    without, whole = mask_channels(model, maps, cut), copy.deepcopy(model)
    with torch.no_grad():
        for kept, gone in zip(whole.parameters(), without.parameters(), strict=True):
            kept.lerp_(gone, 1 - share)
    return whole.double()


@pytest.mark.parametrize("kind", ["residual", "depthwise", "flattened"])
def test_the_gate_is_the_derivative_of_masking_a_channel(kind):
    model, structure, seen = probe_net(kind)
    images, labels = draw_images()
    images = images.double()
    maps, step = structure.maps, 1e-4
    for group, start in zip(maps.groups, maps.offsets, strict=False):
        changes, squares = score("taylor_gate", seen[group.name]), 2 * score("fisher", seen[group.name])
        for channel in range(group.channels):
            with torch.no_grad():
                here = F.cross_entropy(model.double()(images), labels, reduction="none")
                model.float()
                near = F.cross_entropy(faded(model, maps, start, channel, 1 - step)(images), labels, reduction="none")
            slopes = ((near - here) / step).numpy()
            assert changes[channel] == pytest.approx(np.abs(slopes).mean(), rel=0.02, abs=2e-4)
            assert squares[channel] == pytest.approx((slopes**2).mean(), rel=0.04, abs=2e-5)


@pytest.fixture(scope="module")
def trained():
    """A small network near a minimum, its groups, its images, and the true loss change of removing each channel."""
    torch.manual_seed(0)
    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None] / 8 - 1
    images += torch.randn_like(images)  # so hard that the network is not sure of every image
    labels = torch.from_numpy(data.target).long()
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3, stride=2, padding=1, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24 * 16, 10),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4)
    for _ in range(6):
        for rows in torch.randperm(1700).split(50):
            optimizer.zero_grad()
            F.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
    structure = trace_structure(model, (1, 8, 8))
    images, labels = images[:300], labels[:300]
    changes = {}
    with torch.no_grad():
        before = F.cross_entropy(model(images), labels)
        for group, start in zip(structure.maps.groups, structure.maps.offsets, strict=False):
            for channel in range(group.channels):
                cut = structure.maps.make_unpruned_cut()
                cut[start + channel] = False
                after = F.cross_entropy(mask_channels(model, structure.maps, cut)(images), labels)
                changes.setdefault(group.name, []).append(float(after - before))
    gathered = probe(model, structure.maps, [(images, labels)], temperature=1, subsample=EVERY)
    return make_views(model, structure, gathered), changes


@pytest.mark.parametrize(
    ("name", "floor"), [("fisher", 0.5), ("taylor_gate", 0.5), ("obd", 0.5), ("hessian_trace", 0.3), ("thinet", 0.4)]
)
def test_scores_rank_like_the_true_change_of_the_loss(trained, name, floor):
    seen, changes = trained
    rhos = [spearmanr(score(name, view), changes[group]).statistic for group, view in seen.items()]
    assert np.mean(rhos) > floor, rhos


DATA_FREE = ("l1", "l2", "group_norm", "reader_norm", "lamp", "spectral_norm", "nuclear_norm", "fpgm", "fermat")
OTHERS = ("cosine", "whc", "bn_gamma", "bn_beta", "apoz", "activation_mean", "activation_variance", "entropy", "hrank")
GRADIENT = ("chip", "wanda", "taylor_weight", "taylor_weight_l2", "taylor_gate", "taylor_gamma", "taylor_beta", "snip")
ALIKE = (*DATA_FREE, *OTHERS, *GRADIENT, "synflow", "fisher", "fisher_per_macs", "obd")
"""All but those that sample with a fixed seed (thinet, hessian_trace) and random: a permutation meets other draws."""

NETWORK = make_net("residual")
STRUCTURE = trace_net(NETWORK)


def all_scores(model, subsample=EVERY, batches=None):
    gathered = probe(model, STRUCTURE.maps, batches or [draw_images()], temperature=1, subsample=subsample)
    return {
        group: {
            name: score(name, view) for name in ALIKE if name not in {"bn_gamma", "bn_beta"} or view.get_batch_norms()
        }
        for group, view in make_views(model, STRUCTURE, gathered).items()
        if group in {"stem.0", "inner.0"}
    }


BEFORE = all_scores(NETWORK)


@given(st.sampled_from(["stem.0", "inner.0"]), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=8)
def test_renumbering_a_groups_channels_renumbers_its_scores(name, random):
    group = next(group for group in STRUCTURE.maps.groups if group.name == name)
    order = list(range(group.channels))
    random.shuffle(order)
    model = copy.deepcopy(NETWORK)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        for member in group.members:
            tensor = tensors[member.tensor]
            taken = tensor.index_select(member.dim, torch.from_numpy(member.index[order].ravel()))
            tensor.index_copy_(member.dim, torch.from_numpy(member.index.ravel()), taken)
    after = all_scores(model)
    for criterion, found in after[name].items():
        expected = BEFORE[name][criterion][order]
        np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max() + 1e-12, err_msg=criterion)


@given(st.floats(0.1, 10), st.integers(0, 4))
@settings(deadline=None, max_examples=15)
def test_scaling_filters_scales_scores(factor, channel):
    """Scaling one filter scales its norms but not its direction; scaling all of them scales distances too."""
    alone, together = make_net("residual"), make_net("residual")
    with torch.no_grad():
        alone.inner[0].weight[channel] *= -factor
        together.inner[0].weight *= factor
    one, every, before = (make_views(model, STRUCTURE, None)["inner.0"] for model in (alone, together, NETWORK))
    for name in ("l1", "l2", "spectral_norm", "nuclear_norm"):
        expected = score(name, before)
        np.testing.assert_allclose(score(name, every), expected * factor, rtol=1e-4)
        expected[channel] *= factor
        np.testing.assert_allclose(score(name, one), expected, rtol=1e-4)
    for name in ("fpgm", "fermat"):
        np.testing.assert_allclose(score(name, every), score(name, before) * factor, rtol=1e-4)
    np.testing.assert_allclose(score("whc", every), score("whc", before) * factor**2, rtol=1e-4)
    for view in (one, every):
        np.testing.assert_allclose(score("cosine", view), score("cosine", before), rtol=1e-4)


@given(st.lists(st.integers(1, 7), min_size=1, max_size=6))
@settings(deadline=None, max_examples=8)
def test_scores_do_not_depend_on_batch_size(sizes):
    subsample = Subsample(stride=3, max_images=3)
    images, labels = draw_images(sum(sizes))
    pieces = list(zip(images.split(sizes), labels.split(sizes), strict=True))
    whole = all_scores(NETWORK, subsample, [(images, labels)])
    for group, found in all_scores(NETWORK, subsample, pieces).items():
        for criterion, scores in found.items():
            expected = whole[group][criterion]
            np.testing.assert_allclose(scores, expected, atol=2e-4 * np.abs(expected).max() + 1e-12, err_msg=criterion)


@given(st.integers(1, 9), st.integers(1, 5), st.lists(st.integers(1, 11), min_size=1, max_size=8))
def test_the_subsample_is_every_nth_image_of_the_stream(every, at_most, sizes):
    subsample, first, picked = Subsample(every, at_most), 0, []
    for size in sizes:
        picked += [first + row for row in subsample.select_rows(first, size)]
        first += size
    assert picked == list(range(0, first, every))[:at_most]


def test_a_filter_of_zeros_has_the_lowest_weight_scores():
    model = make_net("residual")
    with torch.no_grad():
        model.inner[0].weight[2] = 0
    view = make_views(model, STRUCTURE, None)["inner.0"]
    for name in ("l1", "l2", "spectral_norm", "nuclear_norm", "cosine", "whc"):
        scores = score(name, view)
        assert scores[2] == 0, name
        assert (np.delete(scores, 2) > 0).all(), name
