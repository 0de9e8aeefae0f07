"""Training of base networks from scratch and of pruned networks in short fine-tunes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blendsearch.data.share import SINGLE_PROCESS, Share
from blendsearch.data.splits import Splits
from blendsearch.fitness.data_parallel import wrap_data_parallel
from blendsearch.fitness.device import Precision, autocast
from blendsearch.task import CLASSIFICATION, Task


@dataclass(frozen=True)
class Schedule:
    """SGD with momentum over `epochs` (fractions allowed).

    Attributes
    ----------
    decay: ``cosine`` (one cosine from `rate` to zero) or ``constant``.
    nesterov: True for Nesterov momentum.
    images: training images per epoch; None for all of them.
    """

    epochs: float
    rate: float
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float = 5e-4
    images: int | None = None
    decay: Literal["cosine", "constant"] = "cosine"
    nesterov: bool = True


@dataclass(frozen=True, eq=False)
class Teacher:
    """A network whose outputs a smaller one is trained towards (Hinton et al. 2015, "Distilling the Knowledge").

    Attributes
    ----------
    weight: share, in [0, 1], of the divergence from the teacher in the loss; the rest is the loss against the labels.
    temperature: divides the logits of both networks; the divergence is multiplied by its square, as in the paper.
    """

    module: nn.Module
    weight: float
    temperature: float = 4.0

    def combine_losses(self, loss: Tensor, logits: Tensor, images: Tensor, precision: Precision) -> Tensor:
        """Return the weighted sum of `loss` (against the labels) and the divergence of `logits` from the teacher's."""
        with torch.no_grad(), autocast(images.device, precision):
            targets = self.module(images).float()
        divergence = F.kl_div(
            F.log_softmax(logits * (1 / self.temperature), dim=1),
            F.softmax(targets * (1 / self.temperature), dim=1),
            reduction="batchmean",
        )
        return (1 - self.weight) * loss + self.weight * self.temperature**2 * divergence


@dataclass(frozen=True, eq=False)
class TrainingOptions:
    """Conditions of a training besides its schedule.

    Attributes
    ----------
    precision: precision of the products in forward and backward passes.
    task: the loss.
    teacher: network to distil from; None for none.
    share: this process's part of every batch.
    """

    precision: Precision = "float32"
    task: Task = CLASSIFICATION
    teacher: Teacher | None = None
    share: Share = SINGLE_PROCESS


DEFAULT_OPTIONS = TrainingOptions()


def train(
    module: nn.Module,
    splits: Splits,
    schedule: Schedule,
    device: torch.device,
    rng: np.random.Generator,
    options: TrainingOptions = DEFAULT_OPTIONS,
    progress: Callable[[float, float], None] | None = None,
) -> None:
    """Train `module` in place on the training split, with the augmentations of `splits`.

    All randomness (order, augmentation, dropout) comes from `rng`; torch's global random state is restored afterwards.
    `progress` receives, after each epoch, the part done in (0, 1] and the mean training loss. With a share of several
    processes, all of them must make the same call: batch sizes are the schedule's, and each process reads its part.
    """
    split = splits.train
    per_epoch = min(len(split), schedule.images or len(split))
    steps_per_epoch = max(1, per_epoch // schedule.batch_size)
    steps = max(1, round(schedule.epochs * steps_per_epoch))
    optimizer = make_optimizer(module, schedule)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) if schedule.decay == "cosine" else None
    forked = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=forked),
        torch.enable_grad(),
        wrap_data_parallel(module, options.share, device) as trained,
    ):
        torch.manual_seed(int(rng.integers(2**63)) + options.share.rank)  # dropout draws from torch's own stream
        module.train()
        step = 0
        while step < steps:
            total, seen = 0.0, 0
            for images, labels in splits.iter_batches(
                split,
                batch_size=schedule.batch_size,
                device=device,
                rng=rng,
                augment=splits.augment,
                limit=per_epoch,
                drop_last=per_epoch >= schedule.batch_size,
                share=options.share,
            ):
                optimizer.zero_grad(set_to_none=True)
                with autocast(device, options.precision):
                    logits = trained(images)
                loss = options.task.compute_mean_loss(logits, labels)
                if options.teacher is not None:
                    loss = options.teacher.combine_losses(loss, logits.float(), images, options.precision)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                if cosine is not None:
                    cosine.step()
                total, seen, step = total + float(loss.detach()), seen + 1, step + 1
                if step == steps:
                    break
            if progress is not None:
                progress(step / steps, total / max(1, seen))
    module.eval()


def make_optimizer(module: nn.Module, schedule: Schedule) -> torch.optim.SGD:
    """Make the optimizer of a schedule; biases and parameters of normalisation layers have no weight decay."""
    decayed = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in module.parameters() if parameter.ndim <= 1]
    return torch.optim.SGD(
        [{"params": decayed, "weight_decay": schedule.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=schedule.rate,
        momentum=schedule.momentum,
        nesterov=schedule.nesterov and schedule.momentum > 0,
    )
