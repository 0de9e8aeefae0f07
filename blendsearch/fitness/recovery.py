"""What a freshly cut network is given before it is judged: nothing, new batch-norm statistics, or a short fine-tune."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from blendsearch.data.share import SINGLE_PROCESS, Share
from blendsearch.data.splits import Splits, iter_batches
from blendsearch.fitness.device import Precision, autocast
from blendsearch.fitness.training import Schedule, Teacher, train
from blendsearch.task import CLASSIFICATION, Task


@dataclass(frozen=True)
class Recipe:
    """How much recovery costs.

    Attributes
    ----------
    recalibration_images: training images, without augmentation, whose statistics replace the dense network's.
    batch_size: images per forward pass.
    tuning: the short fine-tune.
    final: the long one, of the networks that are picked in the end; `distillation`: the teacher's part in its loss.
    precision: of the products in every forward and backward pass, of recovery and of judging.
    task: what the fine-tunes lower, and what networks are judged by.
    share: this process's, of fine-tunes that several do together.
    """

    recalibration_images: int
    batch_size: int
    tuning: Schedule
    final: Schedule
    distillation: float = 0.0
    precision: Precision = "float32"
    task: Task = CLASSIFICATION
    share: Share = SINGLE_PROCESS


Recovery = Callable[[nn.Module, nn.Module, Splits, Recipe, torch.device, np.random.Generator], None]
"""Recovers the first network in place; the second is the dense one."""


def skip_recovery(
    module: nn.Module,
    dense: nn.Module,
    splits: Splits,
    recipe: Recipe,
    device: torch.device,
    rng: np.random.Generator,
) -> None:
    """Leave the network as the cut made it."""


def recalibrate(
    module: nn.Module, dense: nn.Module, splits: Splits, recipe: Recipe, device: torch.device, rng: np.random.Generator
) -> None:
    """Re-estimate every batch-norm's mean and variance on training images, the same ones for every cut.

    The training split stands in random order: its first images are a fair sample.
    """
    norms = [item for item in module.modules() if isinstance(item, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    try:
        module.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over batches
            norm.train()
        with torch.no_grad(), autocast(device, recipe.precision):
            for images, _ in iter_batches(
                splits.train,
                batch_size=recipe.batch_size,
                mean=splits.mean,
                std=splits.std,
                device=device,
                limit=recipe.recalibration_images,
            ):
                module(images)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        module.eval()


def make_fine_tuning(schedule: Callable[[Recipe], Schedule], *, with_teacher: bool) -> Recovery:
    """Recalibrate, then train by one of the recipe's schedules; with the dense network as teacher where `taught`."""

    def recover(
        module: nn.Module,
        dense: nn.Module,
        splits: Splits,
        recipe: Recipe,
        device: torch.device,
        rng: np.random.Generator,
    ) -> None:
        recalibrate(module, dense, splits, recipe, device, rng)
        teacher = Teacher(dense, recipe.distillation) if with_teacher and recipe.distillation else None
        train(
            module,
            splits,
            schedule(recipe),
            device,
            rng,
            precision=recipe.precision,
            teacher=teacher,
            task=recipe.task,
            share=recipe.share,
        )

    return recover


FIDELITIES: dict[str, Recovery] = {
    "raw": skip_recovery,
    "recalibrated": recalibrate,
    "tuned": make_fine_tuning(lambda recipe: recipe.tuning, with_teacher=False),
    "final": make_fine_tuning(lambda recipe: recipe.final, with_teacher=True),
}
"""How a cut may be judged, from the cheapest to the dearest."""
