"""Removable blocks: found where a bypass exists, exact when removed, with costs from the oracle."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from structures import draw_random_cut
from torch import Tensor, nn

from blendsearch.results.export.formats import write_format
from blendsearch.structure.cost import count_macs
from blendsearch.structure.removed_layers import list_removed_layers, make_removed_layer
from blendsearch.structure.residual_blocks import add_removable_blocks, remove_blocks
from blendsearch.structure.surgery import narrow
from blendsearch.structure.trace import Structure, trace_structure
from blendsearch.structure.verify import compare_tensors, mask_channels
from blendsearch.zoo.cifar_resnet import cifar_resnet
from blendsearch.zoo.digits_net import digits_net


def trace_blocks(model: nn.Module, shape: tuple[int, int, int]) -> Structure:
    return add_removable_blocks(model, trace_structure(model, shape), shape)


class Bottleneck(nn.Module):
    """A bottleneck with activations in place, as torchvision has it."""

    def __init__(self, into: int, inside: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(into, inside, 1, bias=False), nn.BatchNorm2d(inside)
        self.conv2, self.bn2 = nn.Conv2d(inside, inside, 3, stride, padding=1), nn.BatchNorm2d(inside)
        self.conv3, self.bn3 = nn.Conv2d(inside, into, 1), nn.BatchNorm2d(into)
        self.relu = nn.ReLU(inplace=True)
        self.down = nn.Conv2d(into, into, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(out)))))
        out += self.down(x)
        return self.relu(out)


class Gated(nn.Module):
    """An inverted residual with squeeze and excitation, and a linear residual at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.depth = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.project = nn.Conv2d(16, 8, 1)
        self.norm = nn.GroupNorm(1, 8)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.depth(torch.relu(self.expand(x))))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(out.mean(dim=(2, 3), keepdim=True)))))
        return x + self.norm(self.project(out * gate))


class ResidualNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(Bottleneck(8, 6), Bottleneck(8, 4, stride=2), Gated())
        self.wide, self.narrow = nn.Linear(8, 12), nn.Linear(12, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(torch.relu(self.stem(x))).mean(dim=(2, 3))
        return self.head(x + self.narrow(torch.relu(self.wide(x))))


SHAPE = (3, 9, 9)


def make_net() -> nn.Module:
    torch.manual_seed(3)
    net = ResidualNet()
    for tensor in [*net.parameters(), *net.buffers()]:
        if tensor.ndim == 1 and tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5)
    return net.eval()


NET = make_net()
BLOCKS = trace_blocks(NET, SHAPE)


def name_blocks(structure: Structure) -> list[tuple[str, ...]]:
    groups = structure.maps.groups
    return [tuple(groups[number].name for number in block) for block in structure.maps.blocks]


def test_blocks_with_all_their_groups_are_found() -> None:
    assert name_blocks(BLOCKS) == [
        ("blocks.0.conv1", "blocks.0.conv2"),
        ("blocks.1.conv1", "blocks.1.conv2"),
        ("blocks.2.expand", "blocks.2.squeeze"),
        ("wide",),
    ]
    assert name_blocks(trace_blocks(digits_net().eval(), (1, 8, 8))) == [("inner.0",)]
    inner = [(f"layer{stage}.{block}.conv1",) for stage in (1, 2, 3) for block in range(3)]
    assert name_blocks(trace_blocks(cifar_resnet(20).eval(), (3, 16, 16))) == inner


class Chain(nn.Module):
    """One layer after the other, with a product, a concatenation and a sum that are no bypass."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 1)
        self.gate, self.head = nn.Conv2d(8, 8, 1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(torch.relu(self.one(x)))
        x = x + x.square()
        x = x * torch.sigmoid(self.gate(x))
        x = torch.cat([x, torch.relu(self.three(x))], dim=1)
        return self.head((x + 1).mean(dim=(2, 3)))


def test_layers_without_a_bypass_are_no_blocks() -> None:
    assert trace_blocks(Chain().eval(), SHAPE).maps.blocks == ()


class AttributeReader(nn.Module):
    """A residual network whose code reads the weight of a layer inside the block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        out = self.second(torch.relu(self.first(x).to(self.first.weight.dtype)))
        return self.head((x + out).mean(dim=(2, 3)))


def test_a_block_that_fails_without_its_layers_stays() -> None:
    structure = trace_blocks(AttributeReader().eval(), SHAPE)
    assert [group.name for group in structure.maps.groups] == ["stem", "first"]
    assert structure.maps.blocks == ()


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), keep=st.floats(0.2, 1.0), removed=st.sets(st.integers(0, 3)))
def test_any_cut_that_removes_blocks_is_exact_and_costs_what_the_oracle_says(
    seed: int, keep: float, removed: set[int]
) -> None:
    maps, oracle = BLOCKS.maps, BLOCKS.oracle
    cut = remove_blocks(maps, draw_random_cut(maps, keep, seed), [maps.blocks[number] for number in removed])
    network, image = narrow(NET, maps, cut), torch.randn(2, *SHAPE)
    assert all(tensor.numel() for tensor in [*network.parameters(), *network.buffers()])
    assert compare_tensors(mask_channels(NET, maps, cut)(image), network(image)) == ""
    counts = maps.count_kept(cut)
    assert int(oracle.compute_cost("macs", counts)) == count_macs(network, image[:1])
    assert int(oracle.compute_cost("params", counts)) == sum(item.numel() for item in network.parameters())


def test_a_cut_of_a_network_without_blocks_is_that_of_the_dense_one() -> None:
    maps = BLOCKS.maps
    first = remove_blocks(maps, maps.make_unpruned_cut(), maps.blocks[:2])
    last = draw_random_cut(maps, 0.5, 0) & remove_blocks(maps, maps.make_unpruned_cut(), maps.blocks[:3])
    image = torch.randn(2, *SHAPE)
    twice = narrow(narrow(NET, maps, first), maps, last, first)
    torch.testing.assert_close(twice(image), narrow(NET, maps, last)(image))


LAYERS: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 2), (1, 3), bias=False), (2, 4, 12, 13)),
    (nn.Conv2d(4, 6, (4, 3), padding="same", padding_mode="reflect"), (2, 4, 9, 8)),
    (nn.Conv1d(4, 6, 5, padding="valid", stride=3), (2, 4, 20)),
    (nn.Conv3d(4, 6, 3, padding=1, groups=2), (2, 4, 5, 6, 7)),
    (nn.Linear(4, 6), (2, 7, 4)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_removed_layers_return_what_the_layer_makes_of_zeros(layer: nn.Module, shape: tuple[int, ...]) -> None:
    zeros = torch.zeros(shape)
    torch.testing.assert_close(make_removed_layer(layer, 6)(zeros), layer(zeros))
    empty = make_removed_layer(layer, 0)(zeros)
    channel = -1 if isinstance(layer, nn.Linear) else 1
    assert not empty.any() and empty.shape[channel] == 1
    assert empty.squeeze(channel).shape == layer(zeros).select(channel, 0).shape


def test_other_modules_cannot_be_removed() -> None:
    with pytest.raises(ValueError, match="ConvTranspose2d cannot be removed"):
        make_removed_layer(nn.ConvTranspose2d(2, 3, 2), 3)


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_a_network_without_blocks_is_written_in_other_formats(suffix: str, tmp_path: Any) -> None:
    maps = BLOCKS.maps
    network = narrow(NET, maps, remove_blocks(maps, draw_random_cut(maps, 0.7, 1), maps.blocks))
    assert len(list_removed_layers(network)) == 13
    written = write_format(network, SHAPE, tmp_path / f"network.{suffix}")
    assert written.difference is not None and written.difference < 1e-3


def test_training_reaches_what_is_left() -> None:
    maps = BLOCKS.maps
    network = narrow(NET, maps, remove_blocks(maps, maps.make_unpruned_cut(), maps.blocks)).train()
    network(torch.randn(4, *SHAPE)).square().sum().backward()
    assert all(
        parameter.grad is not None and np.isfinite(parameter.grad.numpy()).all() for parameter in network.parameters()
    )
