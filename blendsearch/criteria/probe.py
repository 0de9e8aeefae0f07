"""The probe: one forward and backward pass over the calibration images feeds every criterion that looks at data.

A channel is observed where it is read: at the input of every layer that takes it in. There it has passed its batch-norm
and its non-linearity, and silencing it there is exactly what a cut does. So the sum over its readers of activation times
gradient is the first-order change of the loss when the channel goes.
"""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from blendsearch.structure.groups import IndexMaps

FAINT_LOSS = 0.02
"""Mean cross-entropy below which the images count as memorised: gradients have all but vanished."""


@dataclass(frozen=True, eq=False)
class Reading:
    """Statistics of the channels at one layer's input, each (C_in,), means over images unless said otherwise.

    Attributes
    ----------
    mean, square: of the activation over positions.
    zeros: share of positions at which the activation is not above zero, in [0, 1].
    gate: |activation x gradient|, summed over positions, then mean of the absolute value over images.
    gate_square: the same sum, squared per image. Gradients are those of one image's own loss.
    """

    mean: Tensor
    square: Tensor
    zeros: Tensor
    gate: Tensor
    gate_square: Tensor

    def by_channel(self, index: NDArray[np.int64]) -> "Reading":
        """The statistics of a group's channels, each (C,): mean over the positions in `index`, shape (C, m)."""
        return Reading(**{field.name: getattr(self, field.name)[index].mean(dim=1) for field in fields(self)})


@dataclass(frozen=True, eq=False)
class Probe:
    """What one pass over the calibration images gathered.

    Attributes
    ----------
    readings: for each layer that reads a group, by the layer's name.
    gradients: for each parameter, the gradient of the mean calibration loss.
    loss: the mean cross-entropy of the calibration images.
    """

    readings: dict[str, Reading]
    gradients: dict[str, Tensor]
    loss: float


def probe(model: nn.Module, maps: IndexMaps, batches: Iterable[tuple[Tensor, Tensor]]) -> Probe:
    """Pass `batches` of (images, labels) through `model` in evaluation mode and back, and gather the statistics.

    The model's weights, mode and gradients are left as they were. Warns when the loss is so small that gradient
    criteria carry no signal.
    """
    readers = sorted({member.module for group in maps.groups for member in group.on("in")})
    gathered = {name: _Gathering() for name in readers}
    gradients = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    total, images_seen = 0.0, 0
    with _observed(model, gathered):
        for images, labels in batches:
            model.zero_grad(set_to_none=True)
            # summed, so that every image's gradient is that of its own loss, whatever the batch
            loss = F.cross_entropy(model(images), labels, reduction="sum")
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
            images_seen += len(images)
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    gradients[name] += parameter.grad
    if not images_seen:
        raise ValueError("the probe needs at least one calibration image")
    mean_loss = total / images_seen
    if mean_loss < FAINT_LOSS:
        warnings.warn(
            f"calibration loss is {mean_loss:.4f}: the network has memorised these images and gradient criteria carry "
            "little signal; augment them (criteria.augment) or calibrate on others",
            stacklevel=2,
        )
    return Probe(
        {name: gathering.reading() for name, gathering in gathered.items() if gathering.images},
        {name: gradient / images_seen for name, gradient in gradients.items()},
        mean_loss,
    )


class _Gathering:
    """Sums over images at one layer's input."""

    def __init__(self) -> None:
        self.images = 0
        self.sums: dict[str, Tensor] = {}

    def saw(self, activation: Tensor) -> None:
        self.images += activation.shape[0]
        flat = _positions(activation)
        self._add("mean", flat.mean(dim=2).sum(dim=0))
        self._add("square", flat.square().mean(dim=2).sum(dim=0))
        self._add("zeros", (flat <= 0).to(flat.dtype).mean(dim=2).sum(dim=0))

    def saw_gradient(self, activation: Tensor, gradient: Tensor) -> None:
        change = (_positions(activation) * _positions(gradient)).sum(dim=2)
        self._add("gate", change.abs().sum(dim=0))
        self._add("gate_square", change.square().sum(dim=0))

    def reading(self) -> Reading:
        return Reading(**{name: total / self.images for name, total in self.sums.items()})

    def _add(self, name: str, value: Tensor) -> None:
        value = value.double()
        self.sums[name] = self.sums[name] + value if name in self.sums else value


def _positions(activation: Tensor) -> Tensor:
    """(N, C, ...) -> (N, C, positions); for a linear layer's input the features are the channels."""
    return activation.flatten(2) if activation.ndim > 2 else activation.unsqueeze(2)


@contextmanager
def _observed(model: nn.Module, gathered: dict[str, _Gathering]) -> Iterator[None]:
    """Inside, `model` is in evaluation mode with gradients on, and what its readers take in is gathered."""

    def watch(gathering: _Gathering) -> "torch.utils.hooks.RemovableHandle":
        def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            # an alias of its own, so that the gradient is that of this reader alone
            activation = inputs[0].view_as(inputs[0])
            seen = activation.detach()
            gathering.saw(seen)
            activation.register_hook(lambda gradient: gathering.saw_gradient(seen, gradient))  # type: ignore[no-untyped-call]
            return (activation, *inputs[1:])

        return module.register_forward_pre_hook(before)

    modes = [(item, item.training) for item in model.modules()]
    wants = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    hooks = []
    try:
        model.eval()
        for parameter, _ in wants:
            parameter.requires_grad_(True)
        for name, gathering in gathered.items():
            module = model.get_submodule(name)
            hooks.append(watch(gathering))
        with torch.enable_grad():
            yield
    finally:
        for hook in hooks:
            hook.remove()
        model.zero_grad(set_to_none=True)
        for item, training in modes:
            item.training = training
        for parameter, wanted in wants:
            parameter.requires_grad_(wanted)
