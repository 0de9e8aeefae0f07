"""Measure training images per second against a tuned reference loop.

    python experiments/gpu/training_speed.py [--device cpu --toy]

The reference has all images on the card, flips and crops them there, and trains the same pruned ResNet-56 in
channels-last memory and bfloat16 with torch's fused SGD. It has no checkpoints and reports nothing.
"""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from harness import Part, Setting, draw_cuts, make_setting, run_as_script, synchronize
from torch import Tensor, nn

from blendsearch.structure.surgery import narrow
from blendsearch.training.device import autocast, convert_to_channels_last
from blendsearch.training.schedule import Schedule
from blendsearch.training.stored_teacher import StoredTeacher, compute_logits
from blendsearch.training.teacher import LiveTeacher
from blendsearch.training.trainer import train
from blendsearch.training.training_options import TrainingOptions

NAME = "training_speed"
GOAL = 0.9
PRECISION: Any = "bfloat16"


def measure(part: Part) -> None:
    """Measure both loops at several batch sizes, and the cost of distillation."""
    part.state["goals"].clear()
    setting = make_setting("resnet56", part.arguments)
    toy = part.arguments.toy
    images = 32 if toy else 25_600
    for size in (16,) if toy else (128, 512):
        own = part.step(f"train, batches of {size}", lambda size=size: measure_loop(setting, size, images))
        best = part.step(f"reference, batches of {size}", lambda size=size: measure_reference(setting, size, images))
        ratio = own / best if own is not None and best is not None else None
        part.set_goal(f"train / reference, batches of {size}", ratio, GOAL)
    size = 16 if toy else 128
    for kind in ("live", "stored"):
        part.step(f"{kind} teacher, batches of {size}", lambda kind=kind: measure_teacher(setting, size, images, kind))


def make_network(setting: Setting) -> nn.Module:
    (cut,) = draw_cuts(setting.maps, 1)
    return convert_to_channels_last(narrow(setting.model, setting.maps, cut))


def measure_loop(setting: Setting, batch_size: int, images: int, teacher: Any = None) -> float:
    """Return images per second of `train`, augmentation and data movement included, after a short warm-up."""
    options = TrainingOptions(PRECISION, teacher=teacher)
    for count in (min(images, 4 * batch_size), images):
        network = make_network(setting)
        synchronize(setting.device)
        began = time.perf_counter()
        schedule = Schedule(1, 0.01, batch_size, images=count)
        train(network, setting.splits, schedule, setting.device, np.random.default_rng(0), options)
        synchronize(setting.device)
    return images // batch_size * batch_size / (time.perf_counter() - began)


def measure_teacher(setting: Setting, batch_size: int, images: int, kind: str) -> float:
    """Return images per second with a teacher; the stored one's outputs are computed beforehand."""
    teacher: Any = LiveTeacher(setting.model.eval(), 0.5)
    if kind == "stored":
        logits = compute_logits(setting.model, setting.splits, 1, 0, setting.device, PRECISION)
        teacher = StoredTeacher(logits, 0.5)
    return measure_loop(setting, batch_size, images, teacher)


def measure_reference(setting: Setting, batch_size: int, images: int) -> float:
    """Return images per second of the reference loop, after a short warm-up."""
    pixels, labels = load_all(setting, images)
    network = make_network(setting).train()
    fused = setting.device.type == "cuda"
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=fused
    )
    for limit in (4 * batch_size, images):
        synchronize(setting.device)
        began, seen = time.perf_counter(), 0
        for x, y in draw_batches(pixels, labels, batch_size, limit):
            optimizer.zero_grad(set_to_none=True)
            with autocast(setting.device, PRECISION):
                outputs = network(x)
            F.cross_entropy(outputs.float(), y).backward()
            optimizer.step()
            seen += len(x)
        synchronize(setting.device)
    return seen / (time.perf_counter() - began)


def load_all(setting: Setting, count: int) -> tuple[Tensor, Tensor]:
    """Move normalised training images, in channels-last memory, and labels to the card."""
    splits, device = setting.splits, setting.device
    batches = list(splits.iter_batches(splits.train, batch_size=512, device=device, limit=count))
    images = torch.cat([x for x, _ in batches]).to(memory_format=torch.channels_last)
    return images, torch.cat([y for _, y in batches])


def draw_batches(pixels: Tensor, labels: Tensor, batch_size: int, limit: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffle, flip and crop on the card; the crop is one per batch, as fast loops for CIFAR do it."""
    order = torch.randperm(len(pixels), device=pixels.device)[:limit]
    side = pixels.shape[-1]
    for start in range(0, len(order) - batch_size + 1, batch_size):
        chosen = order[start : start + batch_size]
        x = F.pad(pixels[chosen], (4, 4, 4, 4))
        top, left = np.random.default_rng(start).integers(0, 9, 2)
        x = x[:, :, top : top + side, left : left + side]
        mirrored = torch.rand(len(x), device=x.device) < 0.5
        x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
        yield x.contiguous(memory_format=torch.channels_last), labels[chosen]


if __name__ == "__main__":
    run_as_script(__doc__, NAME, measure)
