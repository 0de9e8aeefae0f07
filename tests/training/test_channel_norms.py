"""Scaling of channels in networks that a nested cut has narrowed already."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from blendsearch.structure.groups import Cut, IndexMaps
from blendsearch.structure.surgery import narrow
from blendsearch.structure.trace import trace_structure
from blendsearch.training.channel_norms import ChannelScaler, make_example_images
from blendsearch.zoo.factory import build_model

CPU = torch.device("cpu")
NETWORKS = [("cifar_resnet", (3, 32, 32)), ("digits_net", (1, 8, 8)), ("torchvision:squeezenet1_0", (3, 64, 64))]


def make_network(factory: str, shape: tuple[int, int, int]) -> tuple[nn.Module, IndexMaps, torch.Tensor]:
    torch.manual_seed(0)
    model = build_model(factory, {}).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    channels, height, width = shape
    return model, trace_structure(model, shape).maps, make_example_images((height, width, channels), CPU)


def draw_nested_cuts(maps: IndexMaps) -> tuple[Cut, Cut]:
    rng = np.random.default_rng(0)
    first = rng.random(maps.channels) < 0.7
    second = first & (rng.random(maps.channels) < 0.7)
    second[maps.offsets[:-1]] = first[maps.offsets[:-1]] = True
    return first, second


@pytest.mark.parametrize(("factory", "shape"), NETWORKS)
@pytest.mark.parametrize("inexact", [False, True])
def test_scaling_a_narrowed_network_equals_narrowing_a_scaled_one(
    factory: str, shape: tuple[int, int, int], inexact: bool
) -> None:
    model, maps, images = make_network(factory, shape)
    scaler = ChannelScaler(model, maps, images, inexact=inexact)
    assert scaler.axes and (not inexact or not scaler.unscalable_groups.any())
    cut, _ = draw_nested_cuts(maps)
    factors = np.random.default_rng(1).random(maps.channels)
    narrowed, scaled = narrow(model, maps, cut), copy.deepcopy(model)
    norms = scaler.compute_norms(narrowed, cut)
    assert ((norms > 0) >= cut).all() and (norms[~cut & ~scaler.unscalable_groups[scaler.group_index]] == 0).all()
    scaler.scale(narrowed, factors, cut)
    scaler.scale(scaled, factors)
    for (name, found), (_, wanted) in zip(
        narrowed.named_parameters(), narrow(scaled, maps, cut).named_parameters(), strict=True
    ):
        assert torch.equal(found, wanted), name


@pytest.mark.parametrize(("factory", "shape"), NETWORKS)
def test_masks_mark_the_parameters_of_the_chosen_channels(factory: str, shape: tuple[int, int, int]) -> None:
    model, maps, images = make_network(factory, shape)
    scaler = ChannelScaler(model, maps, images)
    first, second = draw_nested_cuts(maps)
    second |= first & scaler.unscalable_groups[scaler.group_index]
    narrowed = narrow(model, maps, first)
    expected = copy.deepcopy(narrowed)
    scaler.scale(expected, second.astype(np.float64), first)
    with torch.no_grad():
        for parameter, mask in scaler.make_masks(narrowed, first & ~second, first):
            parameter.mul_(1 - mask)
    for (name, found), (_, wanted) in zip(narrowed.named_parameters(), expected.named_parameters(), strict=True):
        assert torch.equal(found, wanted), name
    with torch.inference_mode():
        silent, cut = narrowed(images), narrow(narrowed, maps, second, first)(images)
    torch.testing.assert_close(silent, cut, rtol=1e-4, atol=1e-4 * float(cut.std()))
