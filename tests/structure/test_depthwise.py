"""Depthwise decomposition: exact if possible, with costs from the oracle, and fitted."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from criteria_nets import SHAPE, make_net
from hypothesis import assume, given
from hypothesis import strategies as st
from refits import load_images, make_net_refitter, make_random_splits
from structures import MIXED_NET, draw_random_cut
from torch import Tensor, nn

from blendsearch.errors import ConfigError
from blendsearch.fitness.bn_folding import ConvNormPair, find_foldable_pairs, fold_batch_norms
from blendsearch.structure.cost import count_macs
from blendsearch.structure.depthwise import compute_misfit, decompose, factorize_rank_one
from blendsearch.structure.depthwise_layers import add_decomposable_layers
from blendsearch.structure.groups import Cut, IndexMaps, compute_cut_digest
from blendsearch.structure.surgery import narrow
from blendsearch.structure.trace import Structure, trace_structure
from blendsearch.training.refit import Refitter
from blendsearch.training.refit_depthwise import fit_pair
from blendsearch.zoo.cifar_resnet import cifar_resnet
from blendsearch.zoo.digits_net import digits_net


def structure_of(model: nn.Module, shape: tuple[int, int, int]) -> Structure:
    return add_decomposable_layers(model, trace_structure(model, shape), shape)


ODD_SHAPE = (3, 8, 8)
ODD_SPLIT = structure_of(MIXED_NET, ODD_SHAPE)


def only(maps: IndexMaps, *names: str) -> Cut:
    """Make the cut that keeps all channels and decomposes these layers."""
    cut = maps.make_unpruned_cut()
    cut[maps.offsets[-1] :] = [name not in names for name in maps.layers]
    return cut


class Bare(nn.Module):
    """One convolution with all options of a convolution, and a reader."""

    def __init__(self, **given: Any) -> None:
        super().__init__()
        self.layer = nn.Conv2d(4, 6, **given)
        self.reader = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.reader(torch.relu(self.layer(x))).mean(dim=(2, 3))
        return out


KINDS: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (3, 2), "stride": (2, 1), "dilation": (1, 2), "bias": False},
    {"kernel_size": 5, "padding": "same", "padding_mode": "reflect"},
]


@pytest.mark.parametrize("kind", KINDS)
def test_rank_one_kernels_are_decomposed_exactly(kind: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = Bare(**kind).eval()
    out, into, tall, broad = model.layer.weight.shape
    with torch.no_grad():
        model.layer.weight.copy_(torch.randn(out, into, 1, 1) * torch.randn(1, into, tall, broad))
    x = torch.randn(3, 4, 11, 11)
    dense = model(x)
    drawn = torch.get_rng_state()
    decompose(model, "layer")
    assert torch.equal(torch.get_rng_state(), drawn)
    assert [type(part) for part in model.layer] == [nn.Conv2d, nn.Conv2d]
    assert model.layer.depthwise.groups == 4 and model.layer.depthwise.bias is None
    torch.testing.assert_close(model(x), dense, atol=1e-5, rtol=1e-5)


def test_no_random_pair_is_nearer_than_the_singular_pair() -> None:
    torch.manual_seed(1)
    weight = torch.randn(7, 5, 3, 3)
    depthwise, pointwise = factorize_rank_one(weight)
    lost = ((pointwise * depthwise.transpose(0, 1)) - weight).square().sum()
    values = torch.stack([torch.linalg.svdvals(weight[:, i].flatten(1)) for i in range(5)])
    expected = values[:, 1:].square().sum()
    torch.testing.assert_close(lost, expected)
    assert compute_misfit(weight) == pytest.approx(float(expected / weight.square().sum()), rel=1e-5)
    best = min(
        float(
            (
                (pointwise + 0.05 * torch.randn(7, 5, 1, 1))
                * (depthwise + 0.05 * torch.randn(5, 1, 3, 3)).transpose(0, 1)
                - weight
            )
            .square()
            .sum()
        )
        for _ in range(200)
    )
    assert best > lost
    assert torch.linalg.vector_norm(depthwise, dim=(1, 2, 3)) == pytest.approx(1.0, abs=1e-5)


def test_decomposable_layers_are_found() -> None:
    # not the grouped, the transposed or the linear ones
    assert ODD_SPLIT.maps.layers == ("one", "two", "shared")
    digits = structure_of(digits_net().eval(), (1, 8, 8))
    assert digits.maps.layers == ("stem.0", "inner.0", "outer.0", "down.0", "top.0")
    assert len(structure_of(cifar_resnet(20).eval(), (3, 32, 32)).maps.layers) == 19


class Looking(nn.Module):
    """Reads an attribute of one of its layers, uses another's weight directly, and has a third in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.looked_at = nn.Conv2d(8, 8, 3)
        self.by_weight = nn.Conv2d(8, 8, 3)
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.again = self.twice
        self.last = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.looked_at(torch.relu(self.first(x))) * self.looked_at.stride[0]
        x = torch.relu(nn.functional.conv2d(torch.relu(x), self.by_weight.weight, self.by_weight.bias))
        x = self.again(torch.relu(self.twice(x)))
        out: Tensor = self.last(x.mean(dim=(2, 3)))
        return out


def test_a_layer_whose_attributes_are_read_is_not_decomposed() -> None:
    assert structure_of(Looking().eval(), (3, 12, 12)).maps.layers == ("first",)


def test_a_network_without_decomposable_layers_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)).eval()
    with pytest.raises(ConfigError, match="no convolution of Sequential can be decomposed"):
        structure_of(model, (3, 8, 8))


@given(seed=st.integers(0, 10_000), keep=st.floats(0.05, 1.0), whole=st.floats(0, 1))
def test_the_oracle_agrees_with_counting_any_cut_and_decomposition(seed: int, keep: float, whole: float) -> None:
    maps, oracle = ODD_SPLIT.maps, ODD_SPLIT.oracle
    cut = draw_random_cut(maps, keep, seed)
    cut[maps.offsets[-1] :] = np.random.default_rng(seed).random(len(maps.layers)) < whole
    small = narrow(MIXED_NET, maps, cut)
    counts = maps.count_kept(cut)
    macs, params = count_macs(small, torch.zeros(1, *ODD_SHAPE)), sum(item.numel() for item in small.parameters())
    assert oracle.compute_cost("macs", counts) == macs
    assert oracle.compute_cost("params", counts) == params
    # the same networks, as allocation sees them: what costs more decomposed stays whole
    groups, bits = counts[: len(maps.groups)], cut[maps.offsets[-1] :]
    bound = oracle.decompose_except(bits)
    paying = oracle.is_cheaper_decomposed(groups)
    assert bound.compute_cost("macs", groups) <= macs
    assume((bits | paying).all())
    assert bound.compute_cost("macs", groups) == macs and bound.compute_cost("params", groups) == params


@given(seed=st.integers(0, 10_000), keep=st.floats(0.2, 1.0))
def test_costs_of_decomposed_networks_never_fall_with_width(seed: int, keep: float) -> None:
    maps, rng = ODD_SPLIT.maps, np.random.default_rng(seed)
    oracle = ODD_SPLIT.oracle.decompose_except(rng.random(len(maps.layers)) < 0.5)
    counts = np.maximum(1, (maps.sizes * keep * rng.random(len(maps.sizes))).astype(np.int64))
    wider = np.minimum(counts + rng.integers(0, 3, len(counts)), maps.sizes)
    for name in ("macs", "params"):
        assert oracle.compute_cost(name, counts) <= oracle.compute_cost(name, wider) <= oracle.dense[name]
        assert (np.stack([counts, wider]).shape[0],) == oracle.compute_cost(name, np.stack([counts, wider])).shape


def test_a_decomposed_network_is_the_dense_one_with_its_nearest_kernels() -> None:
    model = make_net("residual")
    maps = structure_of(model, SHAPE).maps
    cut = draw_random_cut(maps, 0.6, 3)
    cut[maps.offsets[-1] :] = False
    whole = cut.copy()
    whole[maps.offsets[-1] :] = True
    small, expected = narrow(model, maps, cut), narrow(model, maps, whole)
    for name in maps.layers:
        layer = expected.get_submodule(name)
        depthwise, pointwise = factorize_rank_one(layer.weight)
        layer.weight.data = pointwise * depthwise.transpose(0, 1)
    x = load_images(make_random_splits(SHAPE))
    with torch.inference_mode():
        torch.testing.assert_close(small(x), expected(x), atol=1e-5, rtol=1e-4)


def test_batch_norms_behind_decomposed_layers_are_folded_too() -> None:
    model = make_net("residual")
    maps = structure_of(model, SHAPE).maps
    images = load_images(make_random_splits(SHAPE))
    small = narrow(model, maps, only(maps, "stem.0"))
    pairs = find_foldable_pairs(model, images[:1])
    assert ConvNormPair("stem.0", "stem.1") in pairs
    with torch.no_grad():
        before = small(images)
        with fold_batch_norms(small, pairs):
            assert isinstance(small.stem[1], nn.Identity)
            torch.testing.assert_close(small(images), before, rtol=1e-4, atol=1e-4)
        assert torch.equal(small(images), before)


def test_decomposition_changes_the_digest_and_plain_cuts_keep_theirs() -> None:
    names = ((), ("one",), ("two",), ("one", "two"))
    assert len({compute_cut_digest(only(ODD_SPLIT.maps, *some)) for some in names}) == len(names)
    assert (
        compute_cut_digest(np.arange(11) % 3 > 0) == "f68620c1a1ef979c9ab15cf453638a92"
    )  # as before there was a transform


def residuals(model: nn.Module, small: nn.Module, repair: Refitter, maps: IndexMaps, cut: Cut) -> dict[str, Tensor]:
    """Compute the error of each decomposed layer against its dense outputs, without means, on its inputs."""
    found = {}
    for target in repair.targets:
        if target.module not in maps.find_decomposed_layers(cut):
            continue
        read: list[Tensor] = []
        hook = small.get_submodule(target.module).register_forward_pre_hook(lambda _, x, seen=read: seen.append(x[0]))
        with torch.inference_mode(), repair._use_recovery_statistics(small):
            small(repair.images)
            hook.remove()
            said = small.get_submodule(target.module)(read[0].clone()).flatten(2)
        said = said.gather(2, target.positions[:, None, :].expand(-1, said.shape[1], -1)).transpose(1, 2).flatten(0, 1)
        sources = dict(maps.slices.get(target.tensor, ()))
        kept = np.append(cut, True)[maps.sources[sources[0]]] if 0 in sources else slice(None)
        error = said - target.outputs.flatten(0, 1)[:, kept]
        found[target.module] = error - error.mean(dim=0)
    return found


@given(seed=st.integers(0, 1000), keep=st.floats(0.4, 1.0), ridge=st.sampled_from([1e-4, 1e-2, 1.0]))
def test_the_fit_is_never_further_from_the_dense_network_than_the_singular_pair(
    seed: int, keep: float, ridge: float
) -> None:
    """Layer by layer, on the calibration images, on the layer's inputs after the fit of the layers before it."""
    model, splits = make_net("residual"), make_random_splits(SHAPE)
    maps = structure_of(model, SHAPE).maps
    cut = draw_random_cut(maps, keep, seed)
    repair = make_net_refitter(model, maps, splits, ridge=ridge)
    fitted = narrow(model, maps, cut)
    repair(maps, cut, fitted)
    after = residuals(model, fitted, repair, maps, cut)
    assert set(after) == set(maps.find_decomposed_layers(cut))
    for name in after:
        raw = narrow(model, maps, cut)  # all before it fitted, the layer itself as it was decomposed
        state = {key: value for key, value in fitted.state_dict().items() if not key.startswith(f"{name}.")}
        raw.load_state_dict(state, strict=False)
        before = float(residuals(model, raw, repair, maps, cut)[name].square().sum())
        assert float(after[name].square().sum()) <= before * (1 + 1e-3) + 1e-6, name


def test_an_exact_pair_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4000, 5, 9, generator=generator, dtype=torch.float64)
    true = torch.randn(5, 9, generator=generator).double(), torch.randn(7, 5, generator=generator).double()
    start = tuple(half + 0.3 * torch.randn(half.shape, generator=generator) for half in true)

    def said(depthwise: Tensor, pointwise: Tensor) -> Tensor:
        return (rows * depthwise).sum(dim=2) @ pointwise.T

    flat = rows.flatten(1)
    moments = flat.T @ flat / len(rows), flat.T @ said(*true) / len(rows)
    errors = [float((said(*pair) - said(*true)).square().mean()) for pair in (start, fit_pair(*moments, *start, 1e-6))]
    assert errors[1] < 1e-2 * errors[0]
    ridged = fit_pair(*moments, *start, 0.1)
    assert errors[1] < float((said(*ridged) - said(*true)).square().mean()) < errors[0]


def test_without_repair_only_decomposed_layers_are_fitted() -> None:
    model, splits = make_net("residual"), make_random_splits(SHAPE)
    maps = structure_of(model, SHAPE).maps
    repair = make_net_refitter(model, maps, splits)
    repair = dataclasses.replace(repair, options=dataclasses.replace(repair.options, all_layers=False))
    cut = draw_random_cut(maps, 0.6, 1)
    cut[maps.offsets[-1] :] = [name != "inner.0" for name in maps.layers]
    fitted, bare = narrow(model, maps, cut), narrow(model, maps, cut)
    repair(maps, cut, fitted)
    left = dict(bare.named_parameters())
    changed = {name for name, tensor in fitted.named_parameters() if not torch.equal(tensor, left[name])}
    assert changed == {"inner.0.depthwise.weight", "inner.0.pointwise.weight"}
    again = narrow(model, maps, cut)
    repair(maps, cut, again)
    assert all(torch.equal(one, other) for one, other in zip(fitted.parameters(), again.parameters(), strict=True))


def test_a_pair_with_a_bias_fits_the_mean() -> None:
    model, splits = make_net("residual"), make_random_splits(SHAPE)
    maps = structure_of(model, SHAPE).maps
    cut = only(maps, "left.0")
    small = narrow(model, maps, cut)
    repair = make_net_refitter(model, maps, splits, renewed=False)
    before = small.left[0].pointwise.bias.clone()
    repair(maps, cut, small)
    x = load_images(splits)
    with torch.inference_mode():
        stream = model.relu(model.outer(model.inner(model.stem(x))) + model.stem(x))
        apart = (small.left[0](stream) - model.left[0](stream)).mean(dim=(0, 2, 3))
    assert float(apart.abs().max()) < 1e-4
    assert not torch.equal(before, small.left[0].pointwise.bias)
