"""Training: of a base network from scratch, and of a cut one for a short while."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blendsearch.data.share import SINGLE_PROCESS, Share
from blendsearch.data.splits import Splits, iter_batches
from blendsearch.fitness.data_parallel import wrap_data_parallel
from blendsearch.fitness.device import Precision, autocast
from blendsearch.task import CLASSIFICATION, Task


@dataclass(frozen=True)
class Schedule:
    """SGD with momentum over `epochs` (fractions allowed).

    Attributes
    ----------
    decay: ``cosine``, one cosine from `rate` to zero, or ``constant``.
    nesterov: whether the momentum is Nesterov's.
    images: training images per epoch, all of them where None.
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
    weight: the part, in [0, 1], of the loss that is the divergence from the teacher; the labels' is the rest.
    temperature: softens both distributions; the divergence is multiplied by its square, as in the paper.
    """

    module: nn.Module
    weight: float
    temperature: float = 4.0

    def combine_losses(self, loss: Tensor, logits: Tensor, images: Tensor, precision: Precision) -> Tensor:
        """`loss` against the labels, and the divergence of `logits` from the teacher's, weighted."""
        with torch.no_grad(), autocast(images.device, precision):
            wanted = self.module(images)
        softer = 1 / self.temperature
        divergence = F.kl_div(
            F.log_softmax(logits * softer, dim=1), F.softmax(wanted.float() * softer, dim=1), reduction="batchmean"
        )
        return (1 - self.weight) * loss + self.weight * self.temperature**2 * divergence


def train(
    module: nn.Module,
    splits: Splits,
    schedule: Schedule,
    device: torch.device,
    rng: np.random.Generator,
    progress: Callable[[float, float], None] | None = None,
    precision: Precision = "float32",
    teacher: Teacher | None = None,
    task: Task = CLASSIFICATION,
    share: Share = SINGLE_PROCESS,
) -> None:
    """Train `module` in place on the training split, augmented as the splits say.

    All randomness (order, augmentation, dropout) comes from `rng`; the caller's global torch state is left alone.
    `progress` is told, after each epoch, the part done in (0, 1] and the mean training loss. With a `share`, all its
    processes must call this alike: batches are the schedule's, and each process is given its part of them.
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
        wrap_data_parallel(module, share, device) as trained,
    ):
        torch.manual_seed(int(rng.integers(2**63)) + share.rank)  # dropout draws from torch's own stream
        module.train()
        step = 0
        while step < steps:
            total, seen = 0.0, 0
            for images, labels in iter_batches(
                split,
                batch_size=schedule.batch_size,
                mean=splits.mean,
                std=splits.std,
                device=device,
                rng=rng,
                augment=splits.augment,
                limit=per_epoch,
                drop_last=per_epoch >= schedule.batch_size,
                share=share,
            ):
                optimizer.zero_grad(set_to_none=True)
                with autocast(device, precision):
                    logits = trained(images)
                loss = task.compute_mean_loss(logits, labels)
                if teacher is not None:
                    loss = teacher.combine_losses(loss, logits.float(), images, precision)
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
    """The optimiser of a schedule; biases and the numbers of normalisations are not decayed."""
    decayed = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in module.parameters() if parameter.ndim <= 1]
    return torch.optim.SGD(
        [{"params": decayed, "weight_decay": schedule.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=schedule.rate,
        momentum=schedule.momentum,
        nesterov=schedule.nesterov and schedule.momentum > 0,
    )
