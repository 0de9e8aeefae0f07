"""Effect of single operations on channels, in networks of a few layers with one of them each."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blendsearch.errors import TraceError
from blendsearch.structure.trace import trace_structure


class Between(nn.Module):
    """Two convolutions of eight channels with an operation between them, and a linear layer behind."""

    def __init__(self, operation: Callable[["Between", Tensor], Tensor], reads: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(reads, 8, 3, padding=1)
        self.mask, self.spare = nn.Conv2d(8, 1, 1), nn.Conv2d(8, 8, 1)
        self.scale, self.shift = nn.Parameter(torch.rand(8, 1, 1)), nn.Parameter(torch.rand(8, 4, 4))
        self.blocks = nn.Conv2d(8, 4, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2, groups=4)
        self.out = nn.Linear(8, 4)
        self.operation, self.plain = operation, torch.rand(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.two(self.operation(self, F.relu(self.one(x)))))
        return self.out(x.mean(dim=(2, 3)))


def shuffled(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def written_into(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, :, :2] += 1
    return y


FREE = {
    "a move of all channels to the end and back": lambda net, x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    "pixels rolled": lambda net, x: x.roll(1, dims=2),
    "padded pixels": lambda net, x: F.pad(x, (1, 1, 2, 2)),
    "pooled": lambda net, x: F.interpolate(F.avg_pool2d(x, 2), scale_factor=2),
    "a gate per channel": lambda net, x: x * torch.sigmoid(x.mean(dim=(2, 3), keepdim=True)),
    "a mask for all channels": lambda net, x: x * torch.sigmoid(net.mask(x)),
    "a scale per channel": lambda net, x: x * net.scale,
    "a number": lambda net, x: 2 * x + 1,
    "a mean of channels": lambda net, x: x - x.mean(dim=1, keepdim=True),
    "a largest number": lambda net, x: x / (x.max() + 9),
    "a check of values": lambda net, x: x if torch.isfinite(x).all() and not x.isnan().any() else x[:, :0],
    "normal noise": lambda net, x: torch.normal(x, 0.1),
    "a sum of two layers": lambda net, x: x + net.spare(x),
    "hardswish": lambda net, x: F.hardswish(x),
    "dropout in training": lambda net, x: F.dropout(x, training=net.training),
    "dropout of whole channels in training": lambda net, x: F.dropout2d(x, training=net.training),
    "a part written into": lambda net, x: written_into(x),
    "a parameter per channel and pixel": lambda net, x: x + net.shift,
    "zeros made as wide": lambda net, x: torch.maximum(x, x.new_zeros(x.shape)),
}

STOPPED = {
    "channels rolled": (lambda net, x: x.roll(1, dims=1), "roll in Between splits or reorders its channels"),
    "softmax over channels": (lambda net, x: x.softmax(dim=1), "_softmax in Between reads all its channels at once"),
    "the place of the largest channel": (
        lambda net, x: x * (x.max(dim=1, keepdim=True).indices > 2),
        "max in Between gives positions of channels",
    ),
    "a tensor of the module": (lambda net, x: x + net.plain, "add in Between uses plain, neither a parameter nor"),
    "a constant per channel": (
        lambda net, x: x + torch.ones(8, 1, 1),
        "add in Between couples it to positions that are never cut",
    ),
    "a weight used by hand": (
        lambda net, x: x + F.conv2d(x, net.spare.weight),
        "convolution in Between reads all its channels at once",
    ),
}


@pytest.mark.parametrize("operation", FREE.values(), ids=FREE)
def test_channels_are_traced_through(operation: Callable[[Between, Tensor], Tensor]) -> None:
    structure = trace_structure(Between(operation).eval(), (3, 4, 4))
    assert {group.name: group.channels for group in structure.maps.groups} == {"one": 8, "two": 8}


COUPLED = {
    "a shuffle": (lambda net, x: shuffled(x), 4),
    "half of the channels": (lambda net, x: torch.cat(x.chunk(2, dim=1)[::-1], 1), 4),
    "a transposed convolution in groups": (lambda net, x: net.up(x), 4),
}


@pytest.mark.parametrize(("operation", "channels"), COUPLED.values(), ids=COUPLED)
def test_channels_are_coupled_at(operation: Callable[[Between, Tensor], Tensor], channels: int) -> None:
    structure = trace_structure(Between(operation).eval(), (3, 4, 4))
    assert {group.name: group.channels for group in structure.maps.groups} == {"one": channels, "two": 8}


@pytest.mark.parametrize(("operation", "reason"), STOPPED.values(), ids=STOPPED)
def test_channels_are_frozen_at(operation: Callable[[Between, Tensor], Tensor], reason: str) -> None:
    structure = trace_structure(Between(operation).eval(), (3, 4, 4))
    assert "one" not in {group.name for group in structure.maps.groups}
    assert reason in {item.name: item.reason for item in structure.frozen}["one"]


def test_a_grouped_convolution_couples_the_channels_of_each_block() -> None:
    structure = trace_structure(Between(lambda net, x: net.blocks(x), reads=4).eval(), (3, 4, 4))
    group = structure.maps.groups[0]
    assert (group.name, group.channels) == ("one", 2)
    index = {(member.tensor, member.dim): member.index.tolist() for member in group.members}
    assert index["one.weight", 0] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert index["blocks.weight", 0] == index["two.weight", 1] == [[0, 1], [2, 3]]


class Counts(nn.Module):
    """Updates statistics in training mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.out = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += 1
        return self.out(F.relu(self.one(x)).mean(dim=(2, 3)))


def test_tracing_does_not_change_statistics_of_user_defined_blocks() -> None:
    net = Counts().train()
    trace_structure(net, (3, 4, 4))
    assert net.training
    assert float(net.seen) == 0


def test_an_untraceable_network_is_refused_with_the_module() -> None:
    with pytest.raises(TraceError, match=r"cannot be traced through spare: TypeError: spare is called with keyword"):
        trace_structure(Between(lambda net, x: net.spare(input=x)).eval(), (3, 4, 4))


def test_zero_dimensional_tensors_are_traced() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.out = nn.Conv2d(3, 8, 1), nn.Linear(8, 2)
            self.register_buffer("scale", torch.tensor(0.5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.one(x) * self.scale
            return self.out(x.mean(dim=(2, 3)))

    found = trace_structure(Scaled(), (3, 4, 4))
    assert [group.channels for group in found.maps.groups] == [8]


class Functions(nn.Module):
    """Weights in functions, as in an exported program."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Parameter(torch.rand(8, 3, 3, 3)), nn.Parameter(torch.rand(4, 8))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.conv2d(x, self.one).mean(dim=(2, 3)), self.two)


def test_a_network_without_layers_is_explained() -> None:
    with pytest.raises(TraceError, match="Functions use weights in functions, .* make them layers"):
        trace_structure(Functions().eval(), (3, 4, 4))
