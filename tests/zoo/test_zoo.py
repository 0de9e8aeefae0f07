"""Torchvision's classification networks: the smallest of each family, and all of them among the slow tests."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from blendsearch.structure.cost import count_macs
from blendsearch.structure.surgery import narrow
from blendsearch.structure.trace import Structure, trace_structure
from blendsearch.structure.verify import mask_channels
from blendsearch.zoo.factory import build_model

OUTPUT = "its channels are the network's output"
TRAINING = "it runs in training only"

FAMILIES = {
    "alexnet": 7,
    "convnext_tiny": 22,
    "densenet121": 120,
    "efficientnet_b0": 40,
    "googlenet": 57,
    "mnasnet0_5": 25,
    "mobilenet_v2": 25,
    "mobilenet_v3_small": 27,
    "regnet_x_400mf": 27,
    "regnet_y_400mf": 37,
    "resnet18": 12,
    "resnext50_32x4d": 21,
    "squeezenet1_0": 25,
    "vgg11_bn": 10,
}
"""Networks of which everything can be cut but their outputs, each with its number of groups."""

PARTLY = {"shufflenet_v2_x0_5": 20, "swin_t": 12}
"""Networks in which an operation needs some channels whole."""


def built(name: str) -> nn.Module:
    """Build the network with random values in place of initial zeros and ones."""
    torch.manual_seed(0)
    model = build_model(f"torchvision:{name}").eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.uniform_(0.5, 1.5)
    for key, parameter in model.named_parameters():
        if "layer_scale" in key or (parameter.ndim > 1 and not parameter.any()):
            parameter.data.uniform_(0.5, 1.5)
    return model


def side(name: str) -> int:
    if name == "inception_v3":
        return 299
    return 224 if name.startswith(("vit", "maxvit")) else 96 if name == "alexnet" else 64


def checked(name: str) -> tuple[nn.Module, Structure, nn.Module]:
    """Trace a network, cut half of every group, and compare with the masked network and the oracle."""
    model, pixels = built(name), side(name)
    structure = trace_structure(model, (3, pixels, pixels))
    rng = np.random.default_rng(1)
    cut = np.concatenate([rng.permutation(size) < max(1, size // 2) for size in structure.maps.sizes])
    small = narrow(model, structure.maps, cut)
    images = torch.randn(2, 3, pixels, pixels, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected, found = mask_channels(model, structure.maps, cut)(images), small(images)
    assert float(expected.std()) > 0
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))
    counts = structure.maps.count_kept(cut)
    assert structure.oracle.compute_cost("macs", counts) == count_macs(small, images[:1])
    assert structure.oracle.compute_cost("params", counts) == sum(tensor.numel() for tensor in small.parameters())
    return model, structure, small


@pytest.mark.parametrize("name", FAMILIES)
def test_all_channels_but_the_output_can_be_cut(name: str) -> None:
    _, structure, _ = checked(name)
    assert len(structure.maps.groups) == FAMILIES[name]
    assert {item.reason for item in structure.frozen} <= {OUTPUT, TRAINING}
    dense = structure.oracle.dense["macs"]
    half = structure.maps.sizes // 2
    assert structure.oracle.compute_cost("macs", np.maximum(half, 1)) < 0.4 * dense


@pytest.mark.parametrize("name", PARTLY)
def test_frozen_groups_name_the_operation(name: str) -> None:
    _, structure, _ = checked(name)
    assert len(structure.maps.groups) == PARTLY[name]
    reasons = {item.reason for item in structure.frozen} - {OUTPUT, TRAINING}
    operation = "splits or reorders" if "shuffle" in name else "addmm in features"
    assert any(operation in reason for reason in reasons)


def test_shuffled_channels_of_shufflenet_are_coupled_to_blocks_or_unpruned() -> None:
    _, structure, _ = checked("shufflenet_v2_x0_5")
    free = {group.name: group.channels for group in structure.maps.groups}
    units = [f"stage{stage}.{unit}" for stage, count in ((2, 4), (3, 8), (4, 4)) for unit in range(count)]
    assert free.keys() >= {"conv1.0", "conv5.0", *(f"{unit}.branch2.0" for unit in units)}
    # the first unit of a stage makes the channels that its other units divide and shuffle
    assert free["stage2.0.branch1.2"] == 3
    shuffled = {item.name for item in structure.frozen if "splits or reorders" in item.reason}
    assert shuffled == {"stage3.0.branch1.2"}


def test_a_grouped_convolution_is_cut_by_complete_blocks() -> None:
    model, structure, small = checked("resnext50_32x4d")
    group = next(group for group in structure.maps.groups if group.name == "layer1.0.conv1")
    assert group.channels == 32
    reached = {(member.tensor, member.side): member.index.shape for member in group.members}
    assert reached["layer1.0.conv1.weight", "out"] == (32, 4)
    assert reached["layer1.0.conv2.weight", "out"] == (32, 4)
    assert reached["layer1.0.conv3.weight", "in"] == (32, 4)
    assert [model.get_submodule("layer1.0.conv2").groups, small.get_submodule("layer1.0.conv2").groups] == [32, 16]
    whole = structure.maps.sizes
    one_less = whole - np.array([item is group for item in structure.maps.groups])
    # a group is 4 of 128 channels between 64 and 256, with 16 filters of 9 weights, two scales and shifts a channel
    saved = structure.oracle.compute_cost("params", whole) - structure.oracle.compute_cost("params", one_less)
    assert saved == 4 * 64 + 4 * 4 * 9 + 4 * 256 + 4 * 4


def test_auxiliary_classifiers_follow_the_cut_into_training() -> None:
    _, structure, small = checked("googlenet")
    assert {item.name for item in structure.frozen if item.reason == TRAINING} >= {"aux1.conv.conv", "aux2.fc1"}
    logits, aux2, aux1 = small.train()(torch.randn(2, 3, 64, 64))
    assert logits.shape == aux1.shape == aux2.shape == (2, 1000)


def test_the_published_table_is_that_of_the_last_sweep() -> None:
    here = Path(__file__).parents[2]
    spec = importlib.util.spec_from_file_location("sweep", here / "experiments/zoo/sweep.py")
    assert spec is not None and spec.loader is not None
    sweep = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sweep)
    data = json.loads((here / "experiments/zoo/sweep.json").read_text())
    assert set(data["models"]) == set(sweep.list_models())
    assert sweep.format_table(data) in (here / "docs/zoo.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", torchvision.models.list_models(module=torchvision.models))
def test_no_network_of_torchvision_crashes(name: str) -> None:
    _, structure, _ = checked(name)
    assert len(structure.maps.groups) > 0
