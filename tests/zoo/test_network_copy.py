"""Copies of user-defined networks: wrapped, compiled, patched, with hooks."""

import types
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn.parallel import DataParallel
from torch.optim.swa_utils import AveragedModel

from blendsearch.errors import ModelError
from blendsearch.structure.groups import IndexMaps
from blendsearch.structure.surgery import narrow
from blendsearch.structure.trace import trace_structure
from blendsearch.zoo.network_copy import copy_network

SHAPE = (3, 16, 16)
X = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(1))


def block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body: Any = nn.Sequential(block(3, 16), block(16, 24))
        self.head = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x).mean((2, 3)))
        return out


class HookedNet(Net):
    """Reads a feature that a hook of its own stores."""

    def __init__(self) -> None:
        super().__init__()
        self.features: list[Tensor] = []
        self.body[1].register_forward_hook(self.store)

    def store(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.features.append(output)

    def forward(self, x: Tensor) -> Tensor:
        self.body(x)
        out: Tensor = self.head(self.features.pop().mean((2, 3)))
        return out


class Recorder:
    def __init__(self) -> None:
        self.outputs: list[Tensor] = []

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.outputs.append(output)

    def record(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.outputs.append(output)


class MethodCompiledNet(Net):
    @torch.compile(backend="eager")
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def compile_in_place(model: Net) -> nn.Module:
    model.compile(backend="eager")
    return model


def compile_part_in_place(model: Net) -> nn.Module:
    model.body.compile(backend="eager")
    return model


def compile_whole(model: Net) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


def compile_part(model: Net) -> nn.Module:
    model.body = torch.compile(model.body, backend="eager")
    return model


def compile_layers_and_whole(model: Net) -> nn.Module:
    for index in range(2):
        model.body[index] = torch.compile(model.body[index], backend="eager")
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


def compile_forward(model: Net) -> nn.Module:
    model.forward = torch.compile(model.forward, backend="eager")  # type: ignore[method-assign]
    return model


def bind_forward(model: Net) -> nn.Module:
    def forward(self: Net, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x).amax((2, 3)))
        return out

    model.forward = types.MethodType(forward, model)  # type: ignore[method-assign]
    return model


def bind_part_by_partial(model: Net) -> nn.Module:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return type(self).forward(self, x) * 2

    model.body.forward = partial(forward, model.body)
    return model


def wrap_parallel(model: Net) -> nn.Module:
    model.body = DataParallel(model.body)
    return DataParallel(model)


COPIED = [
    *(compile_in_place, compile_part_in_place, compile_whole, compile_part, compile_layers_and_whole, compile_forward),
    *(bind_forward, bind_part_by_partial, wrap_parallel, AveragedModel, fx.symbolic_trace),
]


def cut_in_half(model: nn.Module) -> tuple[nn.Module, IndexMaps]:
    maps = trace_structure(model, SHAPE).maps
    cut = torch.arange(maps.channels).remainder(2).eq(0).numpy()
    return narrow(model, maps, cut), maps


@pytest.mark.parametrize("change", COPIED, ids=lambda change: change.__name__)
def test_copies_of_wrapped_and_patched_networks_are_cut_like_the_plain_network(
    change: Callable[[Net], nn.Module],
) -> None:
    plain, model = Net(), change(Net())
    with torch.no_grad():
        expected = (bind_forward(Net()) if change is bind_forward else plain).eval()(X)
        if change is bind_part_by_partial:
            expected = bind_part_by_partial(Net()).eval()(X)
    copied = copy_network(model, SHAPE).module
    torch.testing.assert_close(copied(X), expected)
    narrowed, maps = cut_in_half(copied)
    assert len(maps.groups) == 2
    for parameter in [*model.parameters(), *copied.parameters()]:
        nn.init.zeros_(parameter)  # a copy that called them would give zeros
    assert narrowed(X).abs().sum() > 0
    assert sum(p.numel() for p in narrowed.parameters()) < 0.6 * sum(p.numel() for p in Net().parameters())


def test_networks_with_compiled_methods_are_copied() -> None:
    copied = copy_network(MethodCompiledNet(), SHAPE).module
    assert not hasattr(copied.forward, "_torchdynamo_orig_callable")
    torch.testing.assert_close(copied(X), Net().eval()(X))
    assert len(cut_in_half(copied)[1].groups) == 2


def capture_forward(model: Net) -> nn.Module:
    original = model.forward
    model.forward = lambda x: original(x) * 2  # type: ignore[method-assign]
    return model


def capture_part(model: Net) -> nn.Module:
    body, original = model.body, model.body[0].forward
    body[0].forward = lambda x: original(x).clamp(max=6)
    return model


def capture_activation(model: Net) -> nn.Module:
    model.body[1][2].forward = lambda x: x * model.head.bias.sum().sigmoid()
    return model


@pytest.mark.parametrize("change", [capture_forward, capture_part, capture_activation], ids=lambda item: item.__name__)
def test_functions_that_hold_the_network_are_refused_and_nothing_of_it_changes(
    change: Callable[[Net], nn.Module],
) -> None:
    model = change(Net()).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ModelError, match="still computes with .* of the original") as caught:
        copy_network(model, SHAPE)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_functions_that_do_not_hold_the_network_are_copied() -> None:
    model = Net()
    model.body[1][2].forward = lambda x: x.clamp(0, 6)
    torch.testing.assert_close(copy_network(model, SHAPE).module(X), model.eval()(X))


def test_hooks_that_only_read_do_not_run_on_copies() -> None:
    model, kept, recorder, called = Net(), [], Recorder(), []
    model.body[0].register_forward_hook(lambda module, inputs, output: kept.append(output))
    model.body[1].register_forward_hook(recorder)
    model.head.register_forward_hook(recorder.record)
    model.head.register_forward_pre_hook(lambda module, inputs: called.append(1))
    model.body[0][0].register_full_backward_hook(lambda *_: called.append(1))
    found = copy_network(model, SHAPE)
    found.module(X).sum().backward()
    cut_in_half(found.module)[0](X)
    assert kept == recorder.outputs == called == []
    assert found.hooked == ("body.0", "body.0.0", "body.1", "head")
    model(X)
    assert len(kept) == 1 and len(recorder.outputs) == 2 and len(called) == 1


def test_hooks_that_a_network_needs_are_copied() -> None:
    model = HookedNet()
    found = copy_network(model, SHAPE)
    torch.testing.assert_close(found.module(X), Net().eval()(X))
    assert found.hooked == () and model.features == [] and len(cut_in_half(found.module)[1].groups) == 2


class LambdaHookedNet(Net):
    """Reads a feature that a hook with a closure over the network stores."""

    def __init__(self) -> None:
        super().__init__()
        self.features: list[Tensor] = []
        self.body[1].register_forward_hook(lambda module, inputs, output: self.features.append(output))

    def forward(self, x: Tensor) -> Tensor:
        self.body(x)
        out: Tensor = self.head(self.features.pop().mean((2, 3)))
        return out


def test_a_needed_hook_that_cannot_be_copied_is_named() -> None:
    with pytest.raises(ModelError, match=r"does not run without the hook on body.1, .*make it a method"):
        copy_network(LambdaHookedNet(), SHAPE)


def test_a_result_of_a_computation_in_an_attribute_is_named() -> None:
    model = Net()
    model.head.kept = model.head.weight * 2
    with pytest.raises(ModelError, match="Net holds head.kept, the result of a computation with gradients.*detach it"):
        copy_network(model, SHAPE)


@pytest.mark.parametrize(
    "register",
    [
        lambda model: model.body.register_forward_hook(lambda module, inputs, output: output * 2),
        lambda model: model.body.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,)),
        lambda model: model.register_forward_hook(lambda module, args, kwargs, output: output + 1, with_kwargs=True),
        lambda model: model.body.register_forward_hook(lambda module, inputs, output: (output.mul_(2), None)[1]),
    ],
    ids=["output", "input", "keywords", "in place"],
)
def test_hooks_that_change_the_outputs_are_refused(register: Callable[[nn.Module], Any]) -> None:
    model = Net()
    register(model)
    with pytest.raises(ModelError, match="a hook on .* changes what Net computes"):
        copy_network(model, SHAPE)


def test_a_copy_leaves_every_state_of_the_original() -> None:
    model = HookedNet().train()
    model.head.bias.requires_grad_(False)
    model(X).sum().backward()
    model.body[0].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = {name: module.training for name, module in model.named_modules()}
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    stream = torch.get_rng_state()
    copied = copy_network(model, SHAPE).module
    assert torch.equal(stream, torch.get_rng_state())
    nn.init.zeros_(copied.head.weight)  # type: ignore[arg-type]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert modes == {name: module.training for name, module in model.named_modules()}
    assert gradients == {name: parameter.grad for name, parameter in model.named_parameters()}
    assert not model.head.bias.requires_grad and all(item.requires_grad for item in copied.parameters())
    assert not copied.training and all(item.grad is None for item in copied.parameters())
