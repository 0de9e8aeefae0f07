"""Compare training steps that are recorded as a CUDA graph with steps that are not: equality and speed.

    python experiments/gpu/recorded_steps.py [--device cpu --toy]

Equality: 60 steps with and without a recording, and twice without, with deterministic kernels; also for networks in
which the host decides, which must not be recorded. Speed: milliseconds per step of batches of 128 random images of 32
pixels, augmentation included, in bfloat16.
"""

import random
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from harness import ROOT, Part, draw_cuts, make_synthetic_splits, run_as_script, synchronize
from torch import Tensor, nn

from blendsearch.data.splits import Splits
from blendsearch.structure.surgery import narrow
from blendsearch.structure.trace import trace_structure
from blendsearch.training import trainer
from blendsearch.training.device import convert_to_channels_last
from blendsearch.training.schedule import Schedule
from blendsearch.training.stored_teacher import StoredTeacher
from blendsearch.training.teacher import LiveTeacher
from blendsearch.training.training_options import TrainingOptions
from blendsearch.zoo.factory import build_model

sys.path.insert(0, str(ROOT / "experiments" / "training"))
from networks import make_mobilenet, make_vgg

NAME = "recorded_steps"
GOAL = 3.0
CLASSES = 100


def measure(part: Part) -> None:
    """Measure equality, then speed."""
    part.state["goals"].clear()
    toy, device = part.arguments.toy, part.arguments.device
    splits = make_synthetic_splits(32, 64 if toy else 12_800, 64, CLASSES)
    make = Runs(splits, device, 8 if toy else 128)
    results = [
        part.step(f"equal, {name}", lambda case=case: make.compare(case, 2 if toy else 60))
        for name, case in list_cases(device).items()
    ]
    done = [found["recorded"] == 0 for found in results if found is not None]
    part.set_goal("recorded trainings that equal unrecorded ones", sum(done) if done else None, len(results))
    steps = 2 if toy else 150
    for name, build in list_networks().items():
        plain, recorded = (
            part.step(f"{name}, {word}", lambda b=build, r=is_recorded: make.measure_step(b, steps, r))
            for word, is_recorded in (("unrecorded", False), ("recorded", True))
        )
        part.set_goal(f"{name}: unrecorded / recorded", plain / recorded if plain and recorded else None, GOAL)
    logits = np.zeros((1, len(splits.train), CLASSES), np.float16)
    for word, is_recorded in (("unrecorded", False), ("recorded", True)):
        part.step(
            f"ResNet-20 cut, stored teacher, {word}",
            lambda r=is_recorded: make.measure_step(
                list_networks()["ResNet-20 cut"], steps, r, StoredTeacher(logits, 0.7)
            ),
        )


class Runs:
    """Trainings with and without a recording."""

    def __init__(self, splits: Splits, device: torch.device, batch_size: int) -> None:
        self.splits, self.device, self.batch_size = splits, device, batch_size

    def train(
        self, build: Callable[[], nn.Module], steps: int, is_recorded: bool, precision: Any, teacher: Any, **more: Any
    ) -> tuple[nn.Module, float]:
        """Train a new network; return it and the seconds. `more` are fields of the schedule."""
        torch.manual_seed(0)
        module = convert_to_channels_last(build().to(self.device))
        epochs = steps / (len(self.splits.train) // self.batch_size)
        schedule = Schedule(epochs, 0.05, self.batch_size, warmup=0.05, **more)
        least, trainer.LEAST_STEPS = trainer.LEAST_STEPS, 1 if is_recorded else 10**9
        synchronize(self.device)
        began = time.perf_counter()
        try:
            options = TrainingOptions(precision, teacher=teacher)
            trainer.train(module, self.splits, schedule, self.device, np.random.default_rng(0), options)
        finally:
            trainer.LEAST_STEPS = least
        synchronize(self.device)
        return module, time.perf_counter() - began

    def compare(self, case: "Case", steps: int) -> dict[str, float]:
        """Return the largest difference of a tensor after a repetition, and after a recorded training."""
        build, precision, teacher, more = case
        torch.backends.cudnn.deterministic = True
        found = []
        try:
            for is_recorded in (False, False, True):
                random.seed(0)
                module, _ = self.train(build, steps, is_recorded, precision, teacher, **more)
                found.append({name: tensor.detach().float().cpu() for name, tensor in module.state_dict().items()})
        finally:
            torch.backends.cudnn.deterministic = False
        first, again, recorded = found
        return {"repeated": _find_difference(first, again), "recorded": _find_difference(first, recorded)}

    def measure_step(self, build: Callable[[], nn.Module], steps: int, is_recorded: bool, teacher: Any = None) -> float:
        """Return milliseconds per step, after a short training that is not timed."""
        precision = "float32" if self.device.type == "cpu" else "bfloat16"
        self.train(build, min(10, steps), is_recorded, precision, teacher)
        _, seconds = self.train(build, steps, is_recorded, precision, teacher)
        return 1000 * seconds / steps


def _find_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


Case = tuple[Callable[[], nn.Module], str, Any, dict[str, Any]]
"""The network, precision, teacher and further fields of the schedule of a comparison."""


def list_cases(device: torch.device) -> dict[str, Case]:
    half = "float32" if device.type == "cpu" else "bfloat16"
    live = LiveTeacher(make_resnet(20).to(device).eval(), 0.7)
    return {
        "bfloat16": (lambda: make_resnet(20), half, None, {}),
        "float32": (lambda: make_resnet(20), "float32", None, {}),
        "dropout": (lambda: nn.Sequential(make_resnet(8), nn.Dropout(0.3)), "float32", None, {}),
        "live teacher": (lambda: make_resnet(20), half, live, {}),
        "average and clipping": (lambda: make_resnet(20), half, None, {"ema": 0.9, "clip_norm": 1.0}),
        **{f"host {kind}": (lambda kind=kind: HostNet(kind), "float32", None, {}) for kind in HOST},
    }


HOST = ("draws", "counts", "reads")


class HostNet(nn.Module):
    """A network in which the host decides at every call."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.calls = kind, 0
        self.net, self.extra = make_resnet(8), nn.Linear(CLASSES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        if self.kind == "counts":
            self.calls += 1
        decides = {
            "draws": lambda: random.random() < 0.5,
            "counts": lambda: self.calls % 2 == 1,
            "reads": lambda: float(out.detach().mean()) > 0,
        }
        return self.extra(out) if decides[self.kind]() else out


def make_resnet(depth: int) -> nn.Module:
    return build_model("cifar_resnet", {"depth": depth, "classes": CLASSES})


def list_networks() -> dict[str, Callable[[], nn.Module]]:
    return {
        "ResNet-20 cut": lambda: cut_evenly(make_resnet(20), 0.33),
        "ResNet-56 cut": lambda: cut_evenly(make_resnet(56), 0.29),
        "ResNet-20": lambda: make_resnet(20),
        "VGG-19": lambda: make_vgg(19),
        "VGG-19 cut": lambda: cut_evenly(make_vgg(19), 0.33),
        "half MobileNetV2": lambda: make_mobilenet(0.5),
        "half MobileNetV2 cut": lambda: cut_evenly(make_mobilenet(0.5), 0.5),
    }


def cut_evenly(model: nn.Module, keep: float) -> nn.Module:
    """Keep a share of every group's channels."""
    maps = trace_structure(model.eval(), (3, 32, 32)).maps
    (cut,) = draw_cuts(maps, 1, keep)
    return narrow(model, maps, cut)


if __name__ == "__main__":
    run_as_script(__doc__, NAME, measure)
