"""Elastic tune: exact gradients of sub-networks, and continuation where it stopped."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluations import load_digits_splits
from structures import MIXED_NET, draw_random_cut
from torch import nn
from torch.func import functional_call

from blendsearch.structure.groups import Cut, IndexMaps
from blendsearch.structure.surgery import narrow
from blendsearch.structure.trace import trace_structure
from blendsearch.task import Task
from blendsearch.training.elastic import SubNetworks, call_sub_network, tune_elastic
from blendsearch.training.hooks import StepInfo, TrainingHooks
from blendsearch.training.schedule import Schedule
from blendsearch.training.teacher import LiveTeacher
from blendsearch.training.trainer import train
from blendsearch.training.training_options import CheckpointOptions, TrainingOptions
from blendsearch.training.training_store import FolderStore
from blendsearch.zoo.digits_net import digits_net

CPU = torch.device("cpu")
SPLITS = load_digits_splits(augment=("shift",), train_limit=600)
SCHEDULE = Schedule(1.5, 0.02, 100, warmup=0.2, ema=0.9)


class Interruption(Exception):
    pass


def make_network() -> nn.Module:
    torch.manual_seed(0)
    return digits_net(width=4)


MAPS = trace_structure(make_network(), (1, 8, 8)).maps


def sample_cuts(step: int) -> Sequence[Cut]:
    return [draw_random_cut(MAPS, keep, step) for keep in (0.3, 0.7)]


SUB_NETWORKS = SubNetworks(MAPS, sample_cuts, "random")


def tune(sub_networks: SubNetworks = SUB_NETWORKS, **changes: Any) -> dict[str, torch.Tensor]:
    module = make_network()
    options = TrainingOptions(**{"teacher": LiveTeacher(make_network().eval(), 0.5), **changes})
    tune_elastic(module, sub_networks, SPLITS, SCHEDULE, CPU, np.random.default_rng(3), options)
    return module.state_dict()


def mask_parameters(module: nn.Module, maps: IndexMaps, cut: Cut) -> dict[str, torch.Tensor]:
    """Return the parameters with zeros where `cut` removes them: removed channels are zero everywhere."""
    kept, masked = maps.find_kept_positions(cut), {}
    for name, parameter in module.named_parameters():
        mask = torch.ones_like(parameter)
        for dim, source in maps.slices.get(name, ()):
            along = torch.zeros(parameter.shape[dim], dtype=parameter.dtype)
            along[kept[source]] = 1
            mask = mask * along.reshape([-1 if axis == dim else 1 for axis in range(parameter.ndim)])
        masked[name] = parameter * mask
    return masked


@pytest.mark.parametrize("network", ["residual", "mixed"])
@pytest.mark.parametrize("seed", range(3))
def test_gradients_of_a_sub_network_are_those_of_the_masked_network(network: str, seed: int) -> None:
    module = (digits_net(width=8) if network == "residual" else narrow_copy(MIXED_NET)).double().train()
    shape = (1, 8, 8) if network == "residual" else (3, 8, 8)
    maps = trace_structure(module.float().eval(), shape).maps
    module = module.double().train()
    images = torch.randn(16, *shape, dtype=torch.float64, generator=torch.manual_seed(seed))
    cut = draw_random_cut(maps, 0.5, seed)
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}

    output = call_sub_network(module, maps, cut, images)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in module.named_buffers())
    output.square().sum().backward()
    found = {name: parameter.grad.clone() for name, parameter in module.named_parameters()}
    module.zero_grad()
    expected = functional_call(module, mask_parameters(module, maps, cut), (images,))
    expected.square().sum().backward()

    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(output, narrow(module, maps, cut)(images))
    assert any((gradient == 0).any() and gradient.any() for gradient in found.values())
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, msg=lambda text, name=name: f"{name}: {text}")


def narrow_copy(module: nn.Module) -> nn.Module:
    maps = trace_structure(module, (3, 8, 8)).maps
    return narrow(module, maps, maps.make_unpruned_cut())


@pytest.mark.parametrize("at", [1, 4, 7])
def test_an_interrupted_tune_ends_bit_for_bit_the_same(tmp_path: Path, at: int) -> None:
    def interrupt(info: StepInfo) -> None:
        if info.step == at + 1:
            raise Interruption

    wanted = tune()
    checkpoints = CheckpointOptions(FolderStore(tmp_path), "elastic", seconds=0.0)
    with pytest.raises(Interruption):
        tune(checkpoints=checkpoints, hooks=TrainingHooks(on_step=interrupt))
    steps: list[int] = []
    hooks = TrainingHooks(on_step=lambda info: steps.append(info.step))
    found = tune(checkpoints=checkpoints, hooks=hooks)
    assert steps[0] == at + 1
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


def test_a_state_of_other_sub_networks_is_ignored(tmp_path: Path) -> None:
    checkpoints = CheckpointOptions(FolderStore(tmp_path), "elastic", keep=True)
    tune(checkpoints=checkpoints)
    steps: list[int] = []
    hooks = TrainingHooks(on_step=lambda info: steps.append(info.step))
    tune(SubNetworks(MAPS, sample_cuts, "others"), checkpoints=checkpoints, hooks=hooks)
    assert steps[0] == 1


def test_without_sub_networks_it_is_the_usual_distillation() -> None:
    found = tune(SubNetworks(MAPS, lambda step: ()))
    module = make_network()
    options = TrainingOptions(teacher=LiveTeacher(make_network().eval(), 0.5))
    train(module, SPLITS, SCHEDULE, CPU, np.random.default_rng(3), options)
    assert all(torch.equal(found[name], tensor) for name, tensor in module.state_dict().items())
    changed = tune()
    assert any(not torch.equal(changed[name], tensor) for name, tensor in found.items())


def test_a_user_defined_loss_trains_all_networks_by_the_labels() -> None:
    calls: list[int] = []

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        calls.append(len(target))
        return nn.functional.cross_entropy(output, target)

    tune(teacher=None, task=Task(loss))
    assert len(calls) == 3 * SCHEDULE.count_steps(len(SPLITS.train))
