"""Groups, costs and cuts, compared with torch's counts and with masked channels in the dense network."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from structures import MIXED_NET, draw_random_cut
from torch import Tensor, nn

from blendsearch.errors import TraceError
from blendsearch.structure.cost import count_macs
from blendsearch.structure.groups import compute_cut_digest
from blendsearch.structure.surgery import narrow
from blendsearch.structure.trace import Structure, trace_structure
from blendsearch.structure.verify import mask_channels
from blendsearch.zoo.cifar_resnet import cifar_resnet
from blendsearch.zoo.cifar_vgg import cifar_vgg16_bn
from blendsearch.zoo.clutter_net import clutter_net
from blendsearch.zoo.digits_net import digits_net
from blendsearch.zoo.factory import build_model


def randomised(model: nn.Module) -> nn.Module:
    """Randomise batch-norms as in a trained network: nothing is zero or one by accident."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.2)
    return model.eval()


def check_cuts(model: nn.Module, structure: Structure, shape: tuple[int, int, int], keeps: tuple[float, ...]) -> None:
    """Check that pruned networks equal masked ones and have the oracle's costs."""
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(2))
    for seed, keep in enumerate(keeps):
        cut = draw_random_cut(structure.maps, keep, seed)
        small = narrow(model, structure.maps, cut)
        with torch.inference_mode():
            expected, found = mask_channels(model, structure.maps, cut)(images), small(images)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))
        counts = structure.maps.count_kept(cut)
        assert structure.oracle.compute_cost("macs", counts) == count_macs(small, images[:1])
        assert structure.oracle.compute_cost("params", counts) == sum(tensor.numel() for tensor in small.parameters())


@pytest.mark.parametrize(
    ("factory", "groups"),
    [
        *(("resnet18", 12), ("resnet50", 37), ("mobilenet_v2", 25), ("densenet121", 120)),
        pytest.param("vgg16_bn", 15, marks=pytest.mark.slow),  # test_zoo.py cuts vgg11_bn
    ],
)
def test_torchvision_networks_are_cut_exactly(factory: str, groups: int) -> None:
    torch.manual_seed(0)
    model = randomised(build_model(f"torchvision:{factory}"))
    side = 224 if factory == "vgg16_bn" else 64
    structure = trace_structure(model, (3, side, side))
    assert len(structure.maps.groups) == groups
    assert [item.reason for item in structure.frozen] == ["its channels are the network's output"]
    check_cuts(model, structure, (3, side, side), (0.5, 0.2))


def test_all_channels_of_a_cifar_resnet_can_be_cut() -> None:
    model = randomised(cifar_resnet(20))
    structure = trace_structure(model, (3, 32, 32))
    # nine inner groups and one stream per stage, which the padded shortcuts tie in an order of their own
    assert len(structure.maps.groups) == 12
    check_cuts(model, structure, (3, 32, 32), (0.5, 0.9, 0.1))


@pytest.mark.parametrize(
    ("model", "shape", "groups"),
    [(cifar_vgg16_bn(100), (3, 32, 32), 13), (digits_net(), (1, 8, 8), 4), (clutter_net(), (3, 16, 16), 6)],
    ids=["vgg", "digits", "clutter"],
)
def test_other_bundled_networks_are_cut_exactly(model: nn.Module, shape: tuple[int, int, int], groups: int) -> None:
    structure = trace_structure(randomised(model), shape)
    assert len(structure.maps.groups) == groups
    check_cuts(model, structure, shape, (0.5,))


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_cifar_resnets_have_the_layers_of_the_paper(depth: int) -> None:
    layers = [item for item in cifar_resnet(depth).modules() if isinstance(item, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth


ODD_STRUCTURE = trace_structure(MIXED_NET, (3, 8, 8))


def test_a_network_of_many_layer_types_is_cut_exactly() -> None:
    names = {group.name for group in ODD_STRUCTURE.maps.groups}
    assert {"one", "two", "head"} <= names
    check_cuts(MIXED_NET, ODD_STRUCTURE, (3, 8, 8), (0.5, 0.3))


@given(seed=st.integers(0, 10_000), keep=st.floats(0.05, 1.0))
def test_the_oracle_agrees_with_counting_any_cut(seed: int, keep: float) -> None:
    maps, oracle = ODD_STRUCTURE.maps, ODD_STRUCTURE.oracle
    cut = draw_random_cut(maps, keep, seed)
    small = narrow(MIXED_NET, maps, cut)
    counts = maps.count_kept(cut)
    assert oracle.compute_cost("params", counts) == sum(tensor.numel() for tensor in small.parameters())
    assert oracle.compute_cost("macs", counts) == count_macs(small, torch.zeros(1, 3, 8, 8))
    assert counts.tolist() == [int(part.sum()) for part in np.split(cut, maps.offsets[1:-1])]


def test_costs_of_many_cuts_at_once_are_those_of_each() -> None:
    maps, oracle = ODD_STRUCTURE.maps, ODD_STRUCTURE.oracle
    counts = np.stack([maps.count_kept(draw_random_cut(maps, 0.5, seed)) for seed in range(20)])
    for name in ("macs", "params"):
        together = oracle.compute_cost(name, counts)
        assert together.tolist() == [int(oracle.compute_cost(name, row)) for row in counts]
        assert len(set(together.tolist())) > 1
    with pytest.raises(ValueError, match="no cost is called"):
        oracle.compute_cost("joules", counts)


def test_an_unpruned_cut_copies_the_network() -> None:
    model = randomised(cifar_resnet(20))
    before = copy.deepcopy(model.state_dict())
    structure = trace_structure(model, (3, 32, 32))
    twin = narrow(model, structure.maps, structure.maps.make_unpruned_cut())
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(twin(images), model(images))
    for tensor in [*twin.parameters(), *twin.buffers()]:
        tensor.data.fill_(7)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_tracing_does_not_change_the_network() -> None:
    model = cifar_resnet(20).train()
    model.conv1.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modules = [id(module) for module in model.modules()]
    trace_structure(model, (3, 32, 32))
    assert model.training
    assert not model.conv1.weight.requires_grad
    assert [id(module) for module in model.modules()] == modules
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


class PadsChannels(nn.Module):
    """Option A as in most repositories: a pad, which couples some channels to others and some to zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.outer = nn.Conv2d(12, 16, 3, padding=1)
        self.out = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        padded = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        x = F.relu(self.outer(F.relu(self.inner(x))) + padded)
        return self.out(x.mean(dim=(2, 3)))


class CountsChannels(nn.Module):
    """Depends on the number of channels without a tensor operation that shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Conv2d(2, 6, 3), nn.Conv2d(6, 8, 1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.one(x))
        return self.out(F.relu(self.two(x / x.shape[1])).mean(dim=(2, 3)))


class SharesChannels(nn.Module):
    """A softmax over channels divides one among all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Linear(6, 12), nn.Linear(12, 9), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.two(self.one(x.mean(dim=3).flatten(1)).softmax(dim=1))))


@pytest.mark.parametrize(
    ("model", "shape", "frozen", "free", "reason"),
    [
        (CountsChannels(), (2, 5, 5), "one", "two", "the outputs of cutting and masking differ"),
        (SharesChannels(), (2, 3, 5), "one", "two", "_softmax in SharesChannels reads all its channels"),
        (PadsChannels(), (3, 8, 8), "outer", "stem", "add in PadsChannels couples it to positions that are never cut"),
    ],
    ids=["count", "softmax", "pad"],
)
def test_unprunable_groups_are_frozen_with_the_reason(
    model: nn.Module, shape: tuple[int, int, int], frozen: str, free: str, reason: str
) -> None:
    structure = trace_structure(model.eval(), shape)
    reasons = {item.name: item.reason for item in structure.frozen}
    assert reason in reasons[frozen]
    assert free in {group.name for group in structure.maps.groups}
    check_cuts(model, structure, shape, (0.5,))


def test_unprunable_networks_are_refused_in_one_line() -> None:
    with pytest.raises(TraceError, match="does not accept one image of shape"):
        trace_structure(cifar_resnet(20), (1, 32, 32))
    with pytest.raises(TraceError, match=r"no group of .* can be cut"):
        trace_structure(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), (3, 2, 2))
    for wrong in (
        lambda: trace_structure(cifar_resnet(20), (1, 32, 32)),
        lambda: trace_structure(nn.Flatten(), (1, 2, 2)),
    ):
        with pytest.raises(TraceError) as caught:
            wrong()
        assert "\n" not in str(caught.value)


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.lists(st.booleans(), min_size=1, max_size=40))
def test_digests_are_equal_only_for_equal_cuts(one: list[bool], other: list[bool]) -> None:
    assert (compute_cut_digest(np.array(one)) == compute_cut_digest(np.array(other))) == (one == other)
