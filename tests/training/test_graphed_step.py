"""Training steps that are recorded as a CUDA graph: the same network as without, on the fake card of tests/helpers."""

import gc
import random
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fake_device import CARD, use_fake_card
from fake_graph import FakeGraph
from torch import Tensor, nn

from blendsearch.data.splits import DataSpec, Splits, load_splits
from blendsearch.training import trainer
from blendsearch.training.graphed_step import GraphedFunction
from blendsearch.training.hooks import TrainingHooks
from blendsearch.training.schedule import Schedule
from blendsearch.training.stored_teacher import StoredTeacher, compute_logits
from blendsearch.training.teacher import LiveTeacher
from blendsearch.training.trainer import TrainingRun, train
from blendsearch.training.training_options import TrainingOptions
from blendsearch.zoo.digits_net import digits_net

SCHEDULE = Schedule(2, 0.05, 50, images=150)
EVERYTHING = replace(SCHEDULE, ema=0.9, clip_norm=0.5, label_smoothing=0.1, warmup=0.1)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load_splits(DataSpec("digits", augment=("shift",)), 0)


@pytest.fixture(autouse=True)
def record_short_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "LEAST_STEPS", 1)
    FakeGraph.made.clear()


class HostNet(nn.Module):
    """A network in which the host does something at every call."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.calls = kind, 0
        self.net, self.extra = digits_net(width=8), nn.Linear(10, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        if self.kind == "counts":
            self.calls += 1
        flags = {
            "python": lambda: random.random() < 0.5,
            "numpy": lambda: np.random.rand() < 0.5,
            "torch": lambda: float(torch.rand(1)) < 0.5,
            "counts": lambda: self.calls % 2 == 1,
            "reads": lambda: bool((out.detach().mean() > 0).item()),
        }
        return self.extra(out) if flags[self.kind]() else out


def make_net() -> nn.Module:
    torch.manual_seed(0)
    return digits_net(width=8)


def run(
    splits: Splits, net: nn.Module, schedule: Schedule = SCHEDULE, options: TrainingOptions | None = None
) -> dict[str, np.ndarray]:
    random.seed(0)
    np.random.seed(0)
    module = net.to(CARD)
    train(module, splits, schedule, CARD, np.random.default_rng(0), options or TrainingOptions())
    return {name: tensor.detach().cpu().numpy() for name, tensor in module.state_dict().items()}


def assert_equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], name)


def make_teacher(kind: str, splits: Splits) -> Any:
    torch.manual_seed(1)
    dense = digits_net(width=8).to(CARD).eval()
    if kind == "live":
        return LiveTeacher(dense, 0.5)
    return StoredTeacher(compute_logits(dense, splits, 2, 0, CARD), 0.5)


@pytest.mark.parametrize(
    ("schedule", "precision", "teacher"),
    [
        (SCHEDULE, "float32", ""),
        (replace(SCHEDULE, optimizer="adamw", rate=0.003), "float32", ""),
        (EVERYTHING, "float32", "live"),
        (SCHEDULE, "bfloat16", "stored"),
    ],
)
def test_a_recorded_training_ends_like_an_unrecorded_one(
    schedule: Schedule, precision: Any, teacher: str, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    with use_fake_card():
        options = TrainingOptions(precision, teacher=make_teacher(teacher, splits) if teacher else None)
        recorded = run(splits, make_net(), schedule, options)
        assert [graph.replays for graph in FakeGraph.made] == [6]
        monkeypatch.setattr(trainer, "LEAST_STEPS", 7)
        plain = run(splits, make_net(), schedule, options)
    assert len(FakeGraph.made) == 1
    assert_equal(recorded, plain)


@pytest.mark.parametrize("kind", ["python", "numpy", "torch", "counts", "reads"])
def test_a_network_in_which_the_host_decides_is_not_recorded(
    kind: str, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    with use_fake_card():
        found = run(splits, HostNet(kind))
        assert sum(graph.replays for graph in FakeGraph.made) == 0 and len(FakeGraph.made) == 1
        monkeypatch.setattr(trainer, "LEAST_STEPS", 10**9)
        plain = run(splits, HostNet(kind))
    assert len(FakeGraph.made) == 1
    assert_equal(found, plain)


def test_hooks_callbacks_and_changes_after_a_step_prevent_a_recording(splits: Splits) -> None:
    seen: list[float] = []
    hooked = make_net()
    hooked.register_forward_hook(lambda module, inputs, output: seen.append(float(output.sum())))
    with use_fake_card():
        run(splits, hooked)
        run(splits, make_net(), options=TrainingOptions(hooks=TrainingHooks(on_step=lambda info: None)))
        run(splits, make_net(), options=TrainingOptions(after_step=lambda module, done: None))
        run(splits, make_net(), options=TrainingOptions("float16"))
        run(splits, make_net(), options=TrainingOptions(graphs=False))
    assert len(seen) == 6 and not FakeGraph.made


def test_parameters_without_a_gradient_keep_none() -> None:
    with use_fake_card():
        net = HostNet("python").to(CARD)
        net.kind = "reads"
        net.forward = lambda x: net.net(x)  # type: ignore[method-assign]
        function = make_function(net)
        x, y = draw_batch(4)
        for _ in range(2):
            function(x, y)
        assert net.extra.weight.grad is None and any(parameter.grad is not None for parameter in net.net.parameters())


def make_function(net: nn.Module) -> GraphedFunction:
    def compute(x: Tensor, y: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    return GraphedFunction(compute, net)


def draw_batch(size: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(size)
    x = torch.from_numpy(rng.normal(size=(size, 1, 8, 8)).astype(np.float32)).to(CARD)
    return x, torch.from_numpy(rng.integers(0, 10, size)).to(CARD)


def test_a_batch_of_another_shape_runs_unrecorded_and_the_next_one_is_replayed() -> None:
    with use_fake_card():
        net, reference = make_net().to(CARD).train(), make_net().to(CARD).train()
        function = make_function(net)
        for size in (8, 8, 5, 8):
            x, y = draw_batch(size)
            net.zero_grad(set_to_none=True)
            reference.zero_grad(set_to_none=True)
            loss = function(x, y)
            expected = nn.functional.cross_entropy(reference(x), y)
            expected.backward()  # type: ignore[no-untyped-call]
            assert float(loss.detach()) == float(expected.detach())
            for one, other in zip(net.parameters(), reference.parameters(), strict=True):
                assert one.grad is not None and other.grad is not None
                np.testing.assert_array_equal(one.grad.cpu().numpy(), other.grad.cpu().numpy())
            for one, other in zip(net.buffers(), reference.buffers(), strict=True):
                np.testing.assert_array_equal(one.cpu().numpy(), other.cpu().numpy())
    assert [graph.replays for graph in FakeGraph.made] == [3]


def test_tensors_of_the_cpu_are_not_recorded() -> None:
    net = make_net().train()
    loss = make_function(net)(torch.zeros(4, 1, 8, 8), torch.zeros(4, dtype=torch.long))
    assert torch.isfinite(loss) and not FakeGraph.made


def test_a_graph_without_memory_for_it_is_left_out(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out(*args: Any, **kwargs: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with use_fake_card():
        expected = run(splits, make_net())
        monkeypatch.setattr(torch.cuda, "graph", run_out)
        assert_equal(run(splits, make_net()), expected)


def test_a_training_is_freed_at_its_end(splits: Splits) -> None:
    """Its graph holds memory of the GPU, which must not wait for the garbage collector."""
    gc.disable()
    try:
        with use_fake_card():
            training = TrainingRun(
                make_net().to(CARD), splits, SCHEDULE, CARD, np.random.default_rng(0), TrainingOptions()
            )
            training.run(None)
            assert FakeGraph.made.pop().replays == 6
            reference = weakref.ref(training)
            del training
            assert reference() is None
    finally:
        gc.enable()
