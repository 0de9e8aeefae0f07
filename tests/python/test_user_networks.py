"""Searches over networks that are compiled, wrapped or have hooks, as users keep them."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import blendsearch as bs
from blendsearch.errors import ModelError
from blendsearch.events import Event, Warned

QUICK: dict[str, Any] = {
    **{"criteria": ["l1", "fpgm"], "evaluations": 6, "finals": {"picks": 0}, "engine": {"threads": 1}},
    "device": "cpu",
}
X, Y = torch.randn(60, 3, 12, 12, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU())
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x).mean((2, 3)))
        return out


def count_operations(module: nn.Module) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(X[:1])
    return int(counter.get_total_flops())


def test_a_network_compiled_in_place_is_loaded_as_the_pruned_network(tmp_path: Path) -> None:
    model = Net()
    model.compile(backend="eager")
    run = bs.search(model, (X, Y), budget=bs.macs(0.6), runs=tmp_path, progress=False, **QUICK)
    run.best().export(tmp_path / "out")
    loaded, found = bs.load(tmp_path / "out", model=model), run.best().module()
    torch.testing.assert_close(loaded(X), found(X))
    assert count_operations(loaded) == count_operations(found) < 0.61 * count_operations(model.eval())


def test_a_search_reports_hooks_and_changes_nothing_of_the_user(tmp_path: Path) -> None:
    model, kept, events = Net().train(), [], list[Event]()
    model.body[0].register_forward_hook(lambda module, inputs, output: kept.append(output))
    model.head.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    expected = (torch.rand(2), np.random.rand(2), random.random())
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    threads = torch.get_num_threads()
    run = bs.search(model, (X, Y), budget=bs.macs(0.6), runs=tmp_path, progress=events.append, **QUICK)
    run.best().export(tmp_path / "out")
    bs.open(str(run.path), model=model, data=(X, Y)).best().module()
    bs.load(tmp_path / "out", model=model)
    drawn = (torch.rand(2), np.random.rand(2), random.random())
    assert all(np.array_equal(one, other) for one, other in zip(drawn, expected, strict=True))
    assert threads == torch.get_num_threads()
    assert kept == [] and model.training and model.body.training and not model.head.weight.requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    warned = [event.text for event in events if isinstance(event, Warned)]
    assert "the search does not run the hooks of body.0" in warned


class TwoInputs(Net):
    def forward(self, x: Tensor, meta: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x) + meta


def test_networks_of_several_inputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"TwoInputs takes 2 inputs \(x, meta\), and networks of one input"):
        bs.search(TwoInputs(), (X, Y), budget=bs.macs(0.6), runs=tmp_path, progress=False, **QUICK)


@pytest.mark.parametrize(
    "loss",
    [nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0])), nn.CrossEntropyLoss(label_smoothing=0.1)],
    ids=["weights", "smoothing"],
)
def test_accuracy_is_shown_beside_a_loss_of_classes(loss: nn.Module, tmp_path: Path) -> None:
    run = bs.search(Net(), (X, Y), budget=bs.macs(0.6), loss=loss, runs=tmp_path, progress=False, **QUICK)
    best = bs.open(str(run.path)).best()
    assert best.val_accuracy is not None and "val acc" in repr(run.front())
    again = bs.open(str(run.path), model=Net(), data=(X, Y), loss=loss)
    problem = again.load_problem()
    network = again.best().module()
    assert problem.evaluator.measure(network, "val")[1] == pytest.approx(1 - best.val_accuracy)


class Listed(Net):
    """Keeps its layers in a list of Python."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3)]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.layers[1](self.layers[0](x)).mean((2, 3)))
        return out


def test_layers_in_a_list_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"Listed holds layers in a list \(layers\), .* use torch.nn.ModuleList"):
        bs.search(Listed(), (X, Y), budget=bs.macs(0.6), runs=tmp_path, progress=False, **QUICK)


def test_modes_of_the_caller_do_not_reach_a_search(tmp_path: Path) -> None:
    expected = bs.search(Net(), (X, Y), budget=bs.macs(0.6), runs=tmp_path, progress=False, **QUICK)
    model = Net()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.device("meta"):
        found = bs.search(model, (X, Y), budget=bs.macs(0.6), runs=tmp_path, progress=False, **QUICK)
        assert torch.is_autocast_enabled("cpu") and torch.zeros(1).is_meta
    assert found.best().val_loss == expected.best().val_loss
