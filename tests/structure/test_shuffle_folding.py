"""ShuffleNet v2 without shuffles, and searches of networks whose parts are replaced."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from brief_search import search_briefly
from brute_force import check_cuts, get_reasons, make_images, trace_randomized
from torch import Tensor, nn
from torchvision.models import ShuffleNetV2, VisionTransformer

import blendsearch as bs
from blendsearch.structure.cost import count_macs
from blendsearch.structure.folding import fold_computed_weights, list_folded_layers, make_plain_layers
from blendsearch.structure.shuffle_folding import STAGES

IMAGES = make_images(30, 3, 32, 32)


def make_shufflenet(seed: int = 0) -> ShuffleNetV2:
    torch.manual_seed(seed)
    model = ShuffleNetV2([2, 4, 3], [8, 12, 20, 28, 32], num_classes=3).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return model


def make_transformer(seed: int = 0) -> VisionTransformer:
    torch.manual_seed(seed)
    model = VisionTransformer(32, 8, num_layers=1, num_heads=3, hidden_dim=12, mlp_dim=16, num_classes=3)
    nn.init.normal_(model.heads.head.weight)
    return model


def test_shuffles_are_folded_with_the_same_outputs_and_costs() -> None:
    model, images = make_shufflenet(), IMAGES[:4]
    macs = count_macs(model, images[:1])
    parameters = sum(parameter.numel() for parameter in model.parameters())
    with torch.no_grad():
        expected = model(images)
    assert fold_computed_weights(model, images) == STAGES == list_folded_layers(model)
    with torch.no_grad():
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)
    assert count_macs(model, images[:1]) == macs
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert fold_computed_weights(model, images) == ()
    again = make_shufflenet(1)
    make_plain_layers(again, STAGES)
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again(images), expected, rtol=1e-4, atol=1e-5)


def test_every_channel_of_a_folded_shufflenet_can_be_cut_alone() -> None:
    model, images = make_shufflenet(), IMAGES[:4]
    fold_computed_weights(model, images)
    structure = trace_randomized(model, images)
    assert set(get_reasons(structure)) == {"fc"}
    widths = [module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d) and module.groups == 1]
    assert structure.maps.channels == sum(widths)
    check_cuts(model, structure, images)


class ReadsStage(nn.Module):
    """Reads the first channels of a stage by their places."""

    def __init__(self) -> None:
        super().__init__()
        self.body = make_shufflenet()

    def forward(self, x: Tensor) -> Tensor:
        x = self.body.stage2(self.body.maxpool(self.body.conv1(x)))
        return x[:, :5].mean(dim=(2, 3)) + self.body(self.body.conv1[0].weight.new_zeros(len(x), 3, 32, 32))[:, :1]


def test_a_network_that_reads_places_in_a_stage_is_not_folded() -> None:
    model = ReadsStage().eval()
    with torch.no_grad():
        expected = model(IMAGES[:2])
    assert fold_computed_weights(model, IMAGES[:2]) == () == list_folded_layers(model)
    with torch.no_grad():
        assert torch.equal(model(IMAGES[:2]), expected)


@pytest.mark.parametrize("make", [make_shufflenet, make_transformer])
def test_networks_with_replaced_parts_are_searched_exported_and_loaded(
    make: Callable[[int], nn.Module], tmp_path: Path
) -> None:
    data = (IMAGES, torch.arange(30) % 3)
    run = search_briefly(make(0), data, 0.7, tmp_path / "runs")
    assert {item["name"] for item in run.run.structure["frozen"]} <= {"fc", "heads.head"}
    again = bs.open("folded", runs=str(tmp_path / "runs"), model=make(0), data=data)
    again.best().export(tmp_path / "out")
    loaded = bs.load(tmp_path / "out", model=make(1))
    with torch.no_grad():
        torch.testing.assert_close(loaded(IMAGES), again.best().module()(IMAGES), rtol=1e-4, atol=1e-5)
    assert count_macs(loaded, IMAGES[:1]) < 0.71 * count_macs(make(0).eval(), IMAGES[:1])
