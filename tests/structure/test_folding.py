"""Folding of layers that compute their weights in every pass."""

from collections.abc import Callable
from pathlib import Path

import pytest
import timm.layers
import torch
import torch.nn.functional as F
from brief_search import search_briefly
from brute_force import check_cuts, get_widths, make_images, trace_randomized
from torch import Tensor, nn

import blendsearch as bs
from blendsearch.structure.folding import fold_computed_weights, list_folded_layers

IMAGES = make_images(60, 3, 8, 8)


class Standardized(nn.Conv2d):
    """Weight standardisation by hand, with a gain."""

    def __init__(self, *sizes: int, **options: int) -> None:
        super().__init__(*sizes, **options)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        mean, deviation = self.weight.mean(dim=(1, 2, 3), keepdim=True), self.weight.std(dim=(1, 2, 3), keepdim=True)
        weight = self.gain * (self.weight - mean) / (deviation + 1e-5)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Equalized(nn.Linear):
    """A scale by the number of inputs."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.in_features**-0.5, self.bias)


class DependsOnInput(nn.Conv2d):
    """A weight that depends on the input cannot be folded."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * x.abs().mean(), self.bias, padding=1)


class Pads(nn.Conv2d):
    """A layer that does more than its convolution."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), 2 * self.weight, self.bias)


class Net(nn.Module):
    """Three layers of one kind, and a linear one."""

    def __init__(self, make: Callable[..., nn.Module], head: type[nn.Linear] = nn.Linear) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = make(3, 16, 3, padding=1), make(16, 12, 3, padding=1)
        self.out = head(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.two(F.relu(self.one(x)))).mean(dim=(2, 3)))


KINDS = {
    "by hand": Standardized,
    "of timm": timm.layers.StdConv2d,
    "scaled, of timm": timm.layers.ScaledStdConv2d,
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_standardised_convolutions_are_folded_and_cut(make: Callable[..., nn.Module]) -> None:
    model = Net(make, Equalized).eval()
    with torch.no_grad():
        expected = model(IMAGES)
    assert fold_computed_weights(model, IMAGES[:2]) == ("one", "two", "out") == list_folded_layers(model)
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGES), expected, rtol=1e-4, atol=1e-5)
    assert fold_computed_weights(model, IMAGES[:2]) == ()
    structure = trace_randomized(model, IMAGES[:6])
    assert get_widths(structure) == {"one": 16, "two": 12}
    check_cuts(model, structure, IMAGES[:6])


@pytest.mark.parametrize("make", [nn.Conv2d, DependsOnInput, timm.layers.Conv2dSame])
def test_other_layers_stay_as_they_are(make: Callable[..., nn.Module]) -> None:
    model = Net(make).eval()
    assert fold_computed_weights(model, IMAGES[:2]) == ()


def test_a_layer_that_does_more_is_not_folded() -> None:
    model = nn.Sequential(Pads(3, 4, 3)).eval()
    assert fold_computed_weights(model, IMAGES[:2]) == ()


def test_a_folded_network_is_searched_exported_and_loaded(tmp_path: Path) -> None:
    model = Net(Standardized)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run = search_briefly(model, (IMAGES, torch.arange(60) % 3), 0.6, tmp_path / "runs")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [group["name"] for group in run.run.structure["groups"]] == ["one", "two"]
    again = bs.open("folded", runs=str(tmp_path / "runs"), model=Net(Standardized), data=(IMAGES, torch.arange(60) % 3))
    again.best().export(tmp_path / "out")
    loaded = bs.load(tmp_path / "out", model=Net(Standardized))
    with torch.no_grad():
        torch.testing.assert_close(loaded(IMAGES), again.best().module()(IMAGES), rtol=1e-4, atol=1e-5)
