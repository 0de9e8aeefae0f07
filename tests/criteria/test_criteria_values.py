"""Scores compared with hand computation, NumPy, autograd and Torch-Pruning."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from criteria_nets import EVERY, draw_images, make_net, make_views, probe_net, trace_net
from torch import nn

from blendsearch.criteria.activation import compute_histogram_entropy
from blendsearch.criteria.contributions import sample_contributions
from blendsearch.criteria.distance import compute_median_distances
from blendsearch.criteria.feature_map import compute_map_ranks, compute_nuclear_norm_changes
from blendsearch.criteria.probe import probe
from blendsearch.criteria.reconstruction import compute_greedy_errors
from blendsearch.criteria.registry import CRITERIA, load_pool
from blendsearch.criteria.second_order import estimate_hessian_diagonals
from blendsearch.criteria.synaptic_flow import compute_synaptic_flow
from blendsearch.structure.trace import trace_structure

load_pool()


def score(name, view):
    with torch.no_grad():
        return CRITERIA[name].score(view)


@pytest.fixture(scope="module")
def by_hand():
    """Two 1 x 1 filters, (3, -4) and (0, 2); a linear layer reads the two channels at one pixel."""
    model = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, -4.0], [0.0, 2.0]])[..., None, None])
        model[3].weight.copy_(torch.tensor([[1.0, 2.0], [-2.0, 0.0]]))
    structure = trace_structure(model, (2, 1, 1))
    images = torch.tensor([[2.0, 1.0], [1.0, 2.0]])[..., None, None]
    labels = torch.tensor([0, 1])
    gathered = probe(model, structure.maps, [(images, labels)], temperature=1, subsample=EVERY)
    (view,) = make_views(model, structure, gathered).values()
    return view


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("l1", [7, 2]),
        ("l2", [5, 2]),
        ("reader_norm", [3, 2]),
        ("group_norm", [math.sqrt(25 + 5), math.sqrt(4 + 4)]),
        ("lamp", [1, 8 / 38]),
        ("spectral_norm", [5, 2]),
        ("nuclear_norm", [5, 2]),
        ("fpgm", [math.sqrt(45), math.sqrt(45)]),
        ("cosine", [0.2, 0.2]),
        ("whc", [5 * 2 * 0.2, 2 * 5 * 0.2]),
        # activations: image 1 gives (2, 2), image 2 gives (relu(-5), 4)
        ("apoz", [0.5, 1]),
        ("activation_mean", [1, 3]),
        ("activation_variance", [1, 1]),
        ("entropy", [math.log(2), math.log(2)]),
        ("hrank", [0.5, 1]),
        ("wanda", [3 * math.sqrt(2), 2 * math.sqrt(10)]),
    ],
)
def test_scores_equal_values_computed_by_hand(by_hand, name, expected):
    np.testing.assert_allclose(score(name, by_hand).double().numpy(), expected, rtol=1e-6)


def test_gradient_scores_equal_values_computed_by_hand(by_hand):
    # logits of image 1 are (2 + 4, -4) and of image 2 (8, 0); dL/da = W^T (softmax - onehot)
    weight = np.array([[1.0, 2.0], [-2.0, 0.0]])
    activations = np.array([[2.0, 2.0], [0.0, 4.0]])
    logits = activations @ weight.T
    errors = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - np.eye(2)
    gates = activations * (errors @ weight)
    np.testing.assert_allclose(score("taylor_gate", by_hand), np.abs(gates).mean(0), rtol=1e-3)
    np.testing.assert_allclose(score("fisher", by_hand), (gates**2).mean(0) / 2, rtol=1e-3)
    np.testing.assert_allclose(score("fisher_per_macs", by_hand), (gates**2).mean(0) / 20, rtol=1e-3)
    inputs = np.array([[2.0, 1.0], [1.0, 2.0]])
    filters = np.array([[3.0, -4.0], [0.0, 2.0]])
    by_image = (errors @ weight * (activations > 0))[:, :, None] * inputs[:, None, :]
    changes = filters * by_image.mean(0)
    np.testing.assert_allclose(score("taylor_weight", by_hand), np.abs(changes).sum(1), rtol=1e-3)
    np.testing.assert_allclose(score("taylor_weight_l2", by_hand), np.sqrt((changes**2).sum(1)), rtol=1e-3)
    np.testing.assert_allclose(score("snip", by_hand), np.abs(changes.sum(1)), rtol=1e-3)
    np.testing.assert_allclose(score("obd", by_hand), (filters**2 * (by_image**2).mean(0)).sum(1) / 2, rtol=1e-3)


def test_ranks_and_nuclear_norm_changes_are_those_of_numpy():
    drawn = torch.Generator().manual_seed(0)
    wide, tall = torch.randn(2, 5, 4, 6, generator=drawn).relu(), torch.randn(2, 9, 2, 2, generator=drawn)
    wide[0, 1] = 0
    wide[1, 2] = torch.ones(4, 1) @ torch.arange(6.0)[None]
    wide[1, 4] = wide[1, 3]
    for maps in (wide, tall):
        np.testing.assert_array_equal(compute_map_ranks(maps), np.linalg.matrix_rank(maps.numpy()))
        rows = maps.flatten(2)
        changes = compute_nuclear_norm_changes(rows)
        for image, found in zip(rows.double().numpy(), changes.numpy(), strict=True):
            whole = np.linalg.norm(image, "nuc")
            without = [np.linalg.norm(np.delete(image, channel, axis=0), "nuc") for channel in range(len(image))]
            np.testing.assert_allclose(found, whole - np.array(without), atol=2e-7 * whole)
    assert torch.isnan(compute_map_ranks(torch.full((1, 2, 3, 3), torch.nan))).all()
    assert torch.isnan(compute_nuclear_norm_changes(torch.full((1, 2, 3), torch.inf))).all()


def test_the_geometric_median_of_a_triangle_and_of_points_around_one_of_them():
    # equilateral: the Fermat point is the centre, 2/3 of the height away from every corner
    triangle = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]], dtype=torch.float64)
    np.testing.assert_allclose(compute_median_distances(triangle @ triangle.T), np.full(3, 1 / math.sqrt(3)), rtol=1e-6)
    # the median is itself a point, and the mean, where the iteration starts, stands on it
    cross = torch.tensor([[0.0, 0.0], [1, 0], [-1, 0], [0, 2], [0, -2]], dtype=torch.float64)
    np.testing.assert_allclose(compute_median_distances(cross @ cross.T), [0, 1, 1, 2, 2], atol=1e-6)
    points = torch.randn(12, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = compute_median_distances(points @ points.T)
    centre = points.mean(dim=0).clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([centre], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        total = (points - centre).norm(dim=1).sum()
        total.backward()
        return total

    optimizer.step(closure)
    np.testing.assert_allclose(found, (points - centre.detach()).norm(dim=1), rtol=1e-4)


def test_entropy_of_even_uneven_and_constant_columns():
    values = torch.tensor([[0.0, 0.0, 7.0], [1.0, 0.0, 7.0], [2.0, 0.0, 7.0], [3.0, 1.0, 7.0]])
    expected = [math.log(4), -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), 0]
    np.testing.assert_allclose(compute_histogram_entropy(values, 4), expected, rtol=1e-9)


def test_synaptic_flow_of_a_chain_is_autograd_of_the_absolute_network():
    model = make_net("flattened")
    structure = trace_net(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = compute_synaptic_flow(model, structure.maps, (2, 6, 6), rounds=1)
    first, second, hidden, head = (
        getattr(model, name).weight.detach().double().abs().requires_grad_(True)
        for name in ("first", "second", "hidden", "head")
    )
    x = F.conv2d(F.conv2d(torch.ones(1, 2, 6, 6, dtype=torch.float64), first, padding=1), second, stride=2, padding=1)
    flow = (x.flatten(1) @ hidden.T @ head.T).sum()
    for name, weight in (("first", first), ("second", second), ("hidden", hidden)):
        (gradient,) = torch.autograd.grad(flow, weight, retain_graph=True)
        saliency = (weight * gradient).detach().flatten(1).sum(dim=1)
        np.testing.assert_allclose(found[name], saliency / saliency.sum(), rtol=1e-9)
        # the flow is conserved: every layer of the chain carries all of it
        assert float(saliency.sum()) == pytest.approx(float(flow.detach()), rel=1e-9)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_later_rounds_of_synaptic_flow_only_favour_survivors():
    model = make_net("residual")
    structure = trace_net(model)
    once, often = (compute_synaptic_flow(model, structure.maps, (2, 6, 6), rounds=rounds) for rounds in (1, 3))
    for group in structure.maps.groups:
        kept = once[group.name].argsort(descending=True)[: group.channels // 2]
        gained = often[group.name] - once[group.name]
        assert set(torch.nonzero(gained > 0).ravel().tolist()) == set(kept.tolist())
        assert float(often[group.name].sum()) == pytest.approx(3)


def test_thinet_samples_sum_to_the_output_and_greedy_equals_brute_force():
    model = make_net("flattened")
    layer, images = model.second, torch.randn(3, 5, 6, 6)
    found = sample_contributions(layer, images, np.arange(5)[:, None], first_image=2)
    outputs = F.conv2d(images, layer.weight, stride=2, padding=1)
    for row, image in zip(found.reshape(3, 4, 5).sum(dim=2), outputs, strict=True):
        # each sampled sum is one of the image's output values
        assert (image.ravel()[None, :] - row[:, None]).abs().amin(dim=1).max() < 1e-5
    features = torch.randn(3, 36)
    by_channel = sample_contributions(model.hidden, features, np.arange(36).reshape(4, 9), first_image=0)
    linear = features @ model.hidden.weight.T
    for row, image in zip(by_channel.reshape(3, 4, 4).sum(dim=2), linear, strict=True):
        assert (image[None, :] - row[:, None]).abs().amin(dim=1).max() < 1e-5

    x = np.random.default_rng(0).normal(size=(50, 6))
    scores, removed, largest = np.zeros(6), [], 0.0
    while len(removed) < 6:
        errors = {c: (x[:, [*removed, c]].sum(axis=1) ** 2).sum() for c in range(6) if c not in removed}
        best = min(errors, key=errors.__getitem__)
        removed.append(best)
        largest = max(largest, errors[best])
        scores[best] = largest
    np.testing.assert_allclose(compute_greedy_errors(x.T @ x), scores, rtol=1e-9)


def test_hutchinson_converges_to_the_trace_of_each_filter():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2)).double()
    images, labels = torch.randn(4, 3).double(), torch.tensor([0, 1, 0, 1])

    def loss(x, y):
        return F.cross_entropy(model(x), y, reduction="sum")

    found = estimate_hessian_diagonals(loss, {"0.weight": model[0].weight}, images, labels, probes=3000)["0.weight"]

    def of_weight(weight):
        hidden = torch.tanh(F.linear(images, weight, model[0].bias))
        return F.cross_entropy(model[2](hidden), labels)

    true = torch.autograd.functional.hessian(of_weight, model[0].weight.detach()).reshape(6, 6).diagonal().reshape(2, 3)
    np.testing.assert_allclose(found.sum(dim=1), true.sum(dim=1), atol=0.05 * float(true.abs().sum()))


def test_torch_prunings_importances_agree():
    import torch_pruning as tp

    model, _, seen = probe_net("residual")
    images, labels = draw_images()
    model.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    graph = tp.DependencyGraph().build_dependency(model, images[:1])
    first = {"group_reduction": "first", "normalizer": None, "target_types": [nn.Conv2d]}
    compared = {
        "l1": tp.importance.GroupMagnitudeImportance(p=1, **first),
        "taylor_weight": tp.importance.GroupTaylorImportance(multivariable=False, **first),
        "snip": tp.importance.GroupTaylorImportance(multivariable=True, **first),
        "lamp": tp.importance.LAMPImportance(),
        "bn_gamma": tp.importance.BNScaleImportance(normalizer=None),
    }
    norm = tp.importance.GroupMagnitudeImportance(p=2, group_reduction="sum", normalizer=None)
    for name in ("inner.0", "stem.0"):
        view = seen[name]
        module = model.get_submodule(name)
        group = graph.get_pruning_group(module, tp.prune_conv_out_channels, list(range(module.out_channels)))
        np.testing.assert_allclose(score("group_norm", view).square(), norm(group), rtol=1e-5)
        for criterion, importance in compared.items():
            if name == "stem.0" and importance.group_reduction == "first":
                continue  # ours is the mean over both layers that make the stream
            np.testing.assert_allclose(
                score(criterion, view).numpy(), importance(group).numpy(), rtol=1e-4, atol=1e-7, err_msg=criterion
            )
    model.zero_grad()


def test_temperature_divides_the_logits_and_memorised_images_warn():
    _, structure, sharp = probe_net("residual")
    _, _, soft = probe_net("residual", temperature=4.0)
    model = make_net("residual")
    with torch.no_grad():
        model.head.weight /= 4
        model.head.bias /= 4
    scaled = make_views(model, structure, probe(model, structure.maps, [draw_images()], temperature=1, subsample=EVERY))
    for name, view in soft.items():
        np.testing.assert_allclose(view.get_gate().change, scaled[name].get_gate().change, rtol=1e-4)
        assert not np.allclose(view.get_gate().change, sharp[name].get_gate().change, rtol=1e-2)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([50.0, 0, 0]))
    images, _ = draw_images()
    known = [(images, torch.zeros(len(images), dtype=torch.long))]
    with pytest.warns(UserWarning, match="has memorised these images"):
        probe(model, structure.maps, known, {"gates"})
    with pytest.raises(ValueError, match="at least 1"):
        probe(model, structure.maps, known, {"gates"}, temperature=0.5)
    with pytest.raises(ValueError, match="at least one calibration image"):
        probe(model, structure.maps, [], {"gates"})
