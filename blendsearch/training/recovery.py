"""Recovery of a pruned network before its evaluation: none, new batch-norm statistics, or a fine-tune."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from blendsearch.data.share import SINGLE_PROCESS, Share
from blendsearch.data.splits import Splits
from blendsearch.task import CLASSIFICATION, Task
from blendsearch.training.device import Precision, autocast
from blendsearch.training.loop import TrainingOptions, train
from blendsearch.training.schedule import Schedule
from blendsearch.training.teacher import LiveTeacher


@dataclass(frozen=True)
class Recipe:
    """Settings of recovery and evaluation.

    Attributes
    ----------
    recalibration_images: training images, without augmentation, for new batch-norm statistics.
    batch_size: images per forward pass.
    tuning: schedule of the short fine-tune.
    final: schedule of the long fine-tune of selected networks.
    distillation: share, in [0, 1], of the dense network's outputs in the loss of the long fine-tune.
    precision: precision of the products in all forward and backward passes.
    task: the loss of fine-tunes and the metrics of evaluation.
    share: this process's part of every batch, in fine-tunes by several processes.
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
"""Recovers the first network in place; the second one is the dense network."""


def skip_recovery(
    module: nn.Module,
    dense: nn.Module,
    splits: Splits,
    recipe: Recipe,
    device: torch.device,
    rng: np.random.Generator,
) -> None:
    """Leave the network as it is after the cut."""


def recalibrate(
    module: nn.Module, dense: nn.Module, splits: Splits, recipe: Recipe, device: torch.device, rng: np.random.Generator
) -> None:
    """Estimate the mean and variance of every batch-norm anew, on the same training images for every cut.

    The training split is in random order, so its first images are a fair sample.
    """
    norms = [item for item in module.modules() if isinstance(item, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    try:
        module.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # an unweighted average over batches
            norm.train()
        with torch.no_grad(), autocast(device, recipe.precision):
            for images, _ in splits.iter_batches(
                splits.train, batch_size=recipe.batch_size, device=device, limit=recipe.recalibration_images
            ):
                module(images)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        module.eval()


def make_fine_tuning(schedule: Callable[[Recipe], Schedule], *, with_teacher: bool) -> Recovery:
    """Make a recovery that recalibrates and then trains by one of the recipe's schedules.

    With `with_teacher`, the dense network is the teacher if the recipe asks for distillation.
    """

    def recover(
        module: nn.Module,
        dense: nn.Module,
        splits: Splits,
        recipe: Recipe,
        device: torch.device,
        rng: np.random.Generator,
    ) -> None:
        recalibrate(module, dense, splits, recipe, device, rng)
        teacher = LiveTeacher(dense, recipe.distillation) if with_teacher and recipe.distillation else None
        options = TrainingOptions(recipe.precision, recipe.task, teacher, recipe.share)
        train(module, splits, schedule(recipe), device, rng, options)

    return recover


FIDELITIES: dict[str, Recovery] = {
    "raw": skip_recovery,
    "recalibrated": recalibrate,
    "tuned": make_fine_tuning(lambda recipe: recipe.tuning, with_teacher=False),
    "final": make_fine_tuning(lambda recipe: recipe.final, with_teacher=True),
}
"""Recovery of each fidelity, from the lowest to the highest."""
