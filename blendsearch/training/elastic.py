"""Elastic tune: a dense network is trained together with narrower networks that share its weights.

Every step trains the whole network and a few sub-networks, whose weights are slices of its own, and adds up their
gradients (the sandwich rule of Yu and Huang 2019, "Universally Slimmable Networks"). A network that is sliced out of it
afterwards needs less training of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from blendsearch.data.splits import Splits
from blendsearch.data.views import ViewBatch
from blendsearch.structure.groups import Cut, IndexMaps
from blendsearch.structure.surgery import narrow, send_positions
from blendsearch.training.auxiliary import get_logits
from blendsearch.training.device import autocast
from blendsearch.training.schedule import Schedule
from blendsearch.training.teacher import combine_losses
from blendsearch.training.trainer import GradientStep, TrainingRun
from blendsearch.training.training_options import TrainingOptions


@dataclass(frozen=True, eq=False)
class SubNetworks:
    """The sub-networks of an elastic tune.

    Attributes
    ----------
    maps: index maps of the whole network.
    sample_cuts: draws the cuts of a step from the number of the step alone.
    identity: what these cuts depend on; a stored state of another identity is ignored.
    """

    maps: IndexMaps
    sample_cuts: Callable[[int], Sequence[Cut]]
    identity: str = ""


def tune_elastic(
    module: nn.Module,
    sub_networks: SubNetworks,
    splits: Splits,
    schedule: Schedule,
    device: torch.device,
    rng: np.random.Generator,
    options: TrainingOptions,
    progress: Callable[[float, float], None] | None = None,
) -> None:
    """Train `module` in place together with its sub-networks.

    The whole network learns from the labels and, with a teacher, from its outputs, by the teacher's weight. The
    sub-networks learn from the teacher's outputs alone or, without a teacher, from the labels. Their batch-norms use
    the statistics of the batch and leave none behind: a network that is sliced out of `module` needs new ones
    (`training.recalibration`).

    An interrupted tune is continued bit for bit, as in `training.trainer.train`. `progress` receives, after each epoch,
    the part done in (0, 1] and the mean loss of the whole network.
    """
    ElasticRun(module, splits, schedule, device, rng, options, sub_networks).run(progress)


class ElasticRun(TrainingRun):
    """One elastic tune; the loss in its reports is that of the whole network."""

    def __init__(
        self,
        module: nn.Module,
        splits: Splits,
        schedule: Schedule,
        device: torch.device,
        rng: np.random.Generator,
        options: TrainingOptions,
        sub_networks: SubNetworks,
    ) -> None:
        super().__init__(module, splits, schedule, device, rng, options)
        self.sub_networks = sub_networks

    def _make_gradient_step(self, trained: nn.Module) -> GradientStep:
        return partial(self._add_all_gradients, trained)

    def _add_all_gradients(self, trained: nn.Module, batch: ViewBatch) -> Tensor:
        """Add the gradients of all networks one after the other; return the loss of the whole one."""
        teacher, precision = self.options.teacher, self.options.precision
        targets = None if teacher is None else teacher.compute_logits(batch, precision)
        with autocast(self.device, precision):
            logits = trained(batch.images)
        loss = self._compare(logits, batch, targets, 0.0 if teacher is None else teacher.weight)
        self._backward(loss)
        for cut in self.sub_networks.sample_cuts(self.step):
            with autocast(self.device, precision):
                logits = call_sub_network(self.module, self.sub_networks.maps, cut, batch.images)
            self._backward(self._compare(logits, batch, targets, 1.0))
        return loss

    def _compare(self, logits: Any, batch: ViewBatch, targets: Tensor | None, weight: float) -> Tensor:
        loss, teacher = self._compute_label_loss(logits, batch.labels), self.options.teacher
        if teacher is None or targets is None:
            return loss
        return combine_losses(loss, get_logits(logits).float(), targets, weight, teacher.temperature)

    def _identify(self) -> str:
        teacher = self.options.teacher
        taught = "" if teacher is None else f"{teacher.weight:g} {teacher.temperature:g}"
        return f"{super()._identify()} elastic {self.sub_networks.identity} {taught}"


def call_sub_network(module: nn.Module, maps: IndexMaps, cut: Cut, images: Tensor) -> Any:
    """Return the outputs of the network that `cut` keeps of `module`; gradients reach the parameters of `module`.

    Buffers are copies: the statistics of batch-norms in training mode are updated in none of the buffers of `module`.
    """
    return functional_call(narrow(module, maps, cut), slice_parameters(module, maps, cut), (images,))


def slice_parameters(module: nn.Module, maps: IndexMaps, cut: Cut) -> dict[str, Tensor]:
    """Return the kept slices of the parameters of `module` as functions of them."""
    kept, sliced = send_positions(maps.find_kept_positions(cut), next(module.parameters()).device), {}
    for name, parameter in module.named_parameters():
        part: Tensor = parameter
        for dim, source in maps.slices.get(name, ()):
            if len(kept[source]) < part.shape[dim]:
                part = part.index_select(dim, kept[source])
        sliced[name] = part
    return sliced
