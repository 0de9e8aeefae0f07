"""The training loop: settings, hooks, and continuation where a training stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluations import load_digits_splits
from torch import nn

from blendsearch.errors import TrainingError
from blendsearch.events import FineTuned
from blendsearch.training.hooks import StepInfo, TrainingHooks
from blendsearch.training.optimizer_registry import OPTIMIZERS
from blendsearch.training.schedule import Schedule
from blendsearch.training.trainer import train
from blendsearch.training.training_options import CheckpointOptions, TrainingOptions
from blendsearch.training.training_state import pack_state, unpack_state
from blendsearch.training.training_store import FolderStore
from blendsearch.zoo.digits_net import digits_net

CPU = torch.device("cpu")
SPLITS = load_digits_splits(augment=("shift",))


class DropoutNet(nn.Module):
    """A network whose training draws from torch's global generator."""

    def __init__(self) -> None:
        super().__init__()
        self.net = digits_net(width=4)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.net(x))


def make_network() -> nn.Module:
    torch.manual_seed(0)
    return DropoutNet()


def train_network(
    schedule: Schedule, options: TrainingOptions | None = None, **changes: Any
) -> dict[str, torch.Tensor]:
    module = make_network()
    options = options or TrainingOptions(**changes)
    train(module, SPLITS, schedule, CPU, np.random.default_rng(3), options)
    return module.state_dict()


class Interruption(Exception):
    pass


def interrupt_at(step: int) -> TrainingHooks:
    def raise_at(info: StepInfo) -> None:
        if info.step == step:
            raise Interruption

    return TrainingHooks(on_step=raise_at)


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("at", [1, 8, 13])
def test_an_interrupted_training_ends_bit_for_bit_the_same(tmp_path: Path, optimizer: str, at: int) -> None:
    schedule = Schedule(1.7, 0.02, 100, optimizer=optimizer, warmup=0.2, ema=0.9, clip_norm=1.0, label_smoothing=0.1)
    wanted = train_network(schedule)
    options = CheckpointOptions(FolderStore(tmp_path), "net", seconds=0.0)
    with pytest.raises(Interruption):
        train_network(schedule, hooks=interrupt_at(at + 1), checkpoints=options)
    steps: list[int] = []
    hooks = TrainingHooks(on_step=lambda info: steps.append(info.step))
    found = train_network(schedule, checkpoints=options, hooks=hooks)
    assert steps[0] == at + 1
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


def test_a_training_in_parts_of_its_schedule_equals_one_without_a_stop(tmp_path: Path) -> None:
    schedule = Schedule(2, 0.05, 100)
    wanted = train_network(schedule)
    options = CheckpointOptions(FolderStore(tmp_path), "net", keep=True)
    trained = 0
    for stop in (0.25, 0.6, 1.0):
        steps: list[int] = []
        hooks = TrainingHooks(on_step=lambda info, steps=steps: steps.append(info.step))
        found = train_network(schedule, checkpoints=options, stop=stop, hooks=hooks)
        trained += len(steps)
    assert trained == schedule.count_steps(len(SPLITS.train))
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_a_state_of_another_schedule_is_ignored_and_a_damaged_one_too(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    options = CheckpointOptions(store, "net", keep=True)
    train_network(Schedule(0.5, 0.05, 100), checkpoints=options)
    schedule = Schedule(0.5, 0.02, 100)
    wanted = train_network(schedule)
    found = train_network(schedule, checkpoints=options)
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    content = (tmp_path / "net.bin").read_bytes()
    (tmp_path / "net.bin").write_bytes(content[:-1])
    assert store.load("net") is None
    found = train_network(schedule, checkpoints=options)
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_a_state_that_is_signed_but_does_not_fit_is_refused_in_one_line(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    schedule, options = Schedule(0.5, 0.05, 100), CheckpointOptions(store, "net", keep=True)
    train_network(schedule, checkpoints=options)
    tensors, state = unpack_state(store.load("net") or b"")
    for damage in ({"step": "x"}, {"rng": {}}, {"optimizer": 3}):
        store.save("net", pack_state(tensors, state | damage))
        with pytest.raises(TrainingError, match="checkpoint of this training") as caught:
            train_network(schedule, checkpoints=options)
        assert "\n" not in str(caught.value)
    store.save("net", pack_state({}, state))
    with pytest.raises(TrainingError, match="checkpoint of this training"):
        train_network(schedule, checkpoints=options)


KILLED = """
import sys, time
from pathlib import Path
import numpy as np, torch
sys.path.insert(0, sys.argv[2])
torch.set_num_threads(1)
import test_trainer as t
store = t.FolderStore(Path(sys.argv[1]))
pause = t.TrainingHooks(on_step=lambda info: (time.sleep(0.05), print(info.step, flush=True)))
t.train_network(t.Schedule(3, 0.05, 100), hooks=pause, checkpoints=t.CheckpointOptions(store, "net", seconds=0.2))
"""


def test_a_training_killed_by_the_system_continues_bit_for_bit(tmp_path: Path) -> None:
    here = Path(__file__).parent
    path = os.pathsep.join([str(here.parent / "helpers"), *sys.path])
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(here)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path})
    assert process.stdout is not None
    deadline = time.monotonic() + 120
    while not (tmp_path / "net.bin").exists() and time.monotonic() < deadline:
        assert process.poll() is None
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    steps: list[int] = []
    hooks = TrainingHooks(on_step=lambda info: steps.append(info.step))
    schedule = Schedule(3, 0.05, 100)
    found = train_network(schedule, checkpoints=CheckpointOptions(FolderStore(tmp_path), "net"), hooks=hooks)
    assert 1 < steps[0] < schedule.count_steps(len(SPLITS.train))
    wanted = train_network(schedule)
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_the_rate_rises_linearly_and_falls_by_a_cosine() -> None:
    schedule = Schedule(1, 1.0, warmup=0.2)
    factors = [schedule.compute_rate_factor(step, 100) for step in range(100)]
    np.testing.assert_allclose(np.diff(factors[:20]), 1 / 21)
    assert factors[20] == 1.0 and 0 < factors[-1] < 0.001
    torch_cosine = torch.optim.lr_scheduler.CosineAnnealingLR
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference, plain = torch_cosine(optimizer, 50), Schedule(1, 1.0)
    for step in range(50):
        assert abs(plain.compute_rate_factor(step, 50) - optimizer.param_groups[0]["lr"]) < 1e-12
        optimizer.step()
        reference.step()


def test_the_average_of_the_weights_is_that_of_the_steps() -> None:
    schedule, decay, kept = Schedule(0.5, 0.05, 100), 0.8, []
    hooks = TrainingHooks(on_step=lambda info: kept.append(info.module.net.classifier.weight.detach().clone()))
    found = train_network(Schedule(0.5, 0.05, 100, ema=decay), hooks=hooks)
    average = kept[0]
    for weight in kept[1:]:
        average = decay * average + (1 - decay) * weight
    torch.testing.assert_close(found["net.classifier.weight"], average)
    assert (train_network(schedule)["net.classifier.weight"] != average).any()


def test_user_defined_optimizer_scheduler_and_callbacks(tmp_path: Path) -> None:
    rates, epochs = [], []
    hooks = TrainingHooks(
        optimizer=lambda module, schedule: torch.optim.RMSprop(module.parameters(), lr=schedule.rate),
        scheduler=lambda optimizer, steps: torch.optim.lr_scheduler.StepLR(optimizer, step_size=5, gamma=0.5),
        on_step=lambda info: rates.append(info.rate),
        on_epoch=lambda info: epochs.append((info.epoch, info.loss)),
    )
    schedule = Schedule(2, 0.004, 100)
    wanted = train_network(schedule, hooks=hooks)
    assert rates[:6] == [0.004] * 4 + [0.002] * 2
    assert [epoch for epoch, _ in epochs] == [1.0, 2.0] and epochs[1][1] < epochs[0][1]
    options = CheckpointOptions(FolderStore(tmp_path), "net", keep=True)
    train_network(schedule, hooks=hooks, checkpoints=options, stop=0.3)
    found = train_network(schedule, hooks=hooks, checkpoints=options)
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_a_diverging_training_ends_in_one_line() -> None:
    with pytest.raises(TrainingError, match="training loss is .*lower the learning rate"):
        train_network(Schedule(1, 1e12, 100))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_trains(precision: Any) -> None:
    module = make_network()
    losses: list[float] = []
    train(
        module,
        SPLITS,
        Schedule(3, 0.05, 100),
        CPU,
        np.random.default_rng(0),
        TrainingOptions(precision),
        lambda _, loss: losses.append(loss),
    )
    assert losses[-1] < losses[0] and all(parameter.dtype == torch.float32 for parameter in module.parameters())


def test_progress_has_epochs_pace_and_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blendsearch.training.trainer.REPORT_SECONDS", 0.0)
    reports: list[FineTuned] = []
    store = FolderStore(tmp_path)
    monkeypatch.setattr(store, "report", reports.append)
    train_network(Schedule(2, 0.05, 100), checkpoints=CheckpointOptions(store, "net"))
    assert [round(item.done * 16) for item in reports] == list(range(1, 17))
    assert all(item.images_per_second > 0 and item.epochs == 2 for item in reports)
    assert reports[-1].seconds_left == 0 < reports[0].seconds_left
