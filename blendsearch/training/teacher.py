"""Distillation: a network is trained towards the outputs of a larger one."""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blendsearch.data.views import ViewBatch
from blendsearch.training.device import Precision, autocast


class Teacher(Protocol):
    """Source of targets for a network in training.

    Attributes
    ----------
    weight: share, in [0, 1], of the divergence from the teacher in the loss; the rest is the loss against the labels.
    temperature: divides the logits of both networks; the divergence is multiplied by its square, as in the paper.
    views: number of fixed augmented views of every image that the teacher knows; None if it takes any image.
    view_seed: seed of these views.
    """

    @property
    def weight(self) -> float: ...

    @property
    def temperature(self) -> float: ...

    @property
    def views(self) -> int | None: ...

    @property
    def view_seed(self) -> int: ...

    def compute_logits(self, batch: ViewBatch, precision: Precision) -> Tensor:
        """Return the teacher's logits for a batch, (images, classes), float32."""


@dataclass(frozen=True, eq=False)
class LiveTeacher:
    """A network that runs beside the one in training (Hinton et al. 2015, "Distilling the Knowledge")."""

    module: nn.Module
    weight: float
    temperature: float = 4.0
    views: int | None = None
    view_seed: int = 0

    def compute_logits(self, batch: ViewBatch, precision: Precision) -> Tensor:
        """Run the network on the images of the batch."""
        with torch.no_grad(), autocast(batch.images.device, precision):
            logits: Tensor = self.module(batch.images)
        return logits.float()


def describe_teacher(teacher: Teacher | None) -> str:
    """Describe what a training must have in common with one that it continues; empty without a teacher."""
    if teacher is None:
        return ""
    return f" teacher={teacher.weight:g},{teacher.temperature:g},{teacher.views},{teacher.view_seed}"


def combine_losses(loss: Tensor, logits: Tensor, targets: Tensor, weight: float, temperature: float) -> Tensor:
    """Return the weighted sum of `loss` (against the labels) and the divergence of `logits` from the teacher's."""
    divergence = F.kl_div(
        F.log_softmax(logits * (1 / temperature), dim=1),
        F.softmax(targets * (1 / temperature), dim=1),
        reduction="batchmean",
    )
    return (1 - weight) * loss + weight * temperature**2 * divergence
