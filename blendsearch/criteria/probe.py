"""Probe: one forward and backward pass over the calibration images, shared by all criteria that need data.

A channel is observed where it is read: at the input of every layer that reads it. There it has passed its batch-norm
and its non-linearity, and masking it there is exactly what a cut does. So the sum over its readers of activation times
gradient is the first-order change of the loss when the channel is removed.

Only the needs of the pool are computed. Statistics that cost about as much per image as the pass itself (singular
values, per-image weight gradients, Hessian products) are computed on a sub-sample of the images.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blendsearch.criteria.activation_stats import ActivationStats, StatsAccumulator
from blendsearch.criteria.needs import NEEDS, Need
from blendsearch.criteria.second_order import compute_squared_gradient, estimate_hessian_diagonals
from blendsearch.criteria.synaptic_flow import compute_synaptic_flow
from blendsearch.errors import format_error, format_reason
from blendsearch.structure.eval_mode import use_eval_mode
from blendsearch.structure.groups import Group, IndexMaps, Member

MEMORIZED_LOSS = 0.02
"""Mean cross-entropy below which images count as memorised: gradients have almost vanished."""

TEMPERATURE = 4.0
"""Divides the logits before the loss whose gradients are taken.

Measured on ResNet-56 with training images of CIFAR-10 that it has memorised (`experiments/memorised_images.py`;
accuracy after a uniform cut of half the inner channels, recalibrated, no fine-tuning; L1 keeps 82.2 %): from
temperature 1 to 4 the criteria that sum per image gain, taylor_gate 80.7 -> 84.7, fisher 78.9 -> 83.8, obd 74.0 ->
79.4, also on images never seen (79.7 -> 83.1, 80.7 -> 82.7, 77.2 -> 79.4). Those that average signed gradients over
images first lose a little on memorised ones (taylor_weight 75.9 -> 74.3, taylor_gamma 74.8 -> 71.6, snip 72.4 -> 68.6).
Augmentation recovers most of it for the first two. A temperature of eight gains nothing over four.
"""

BACKWARD_NEEDS: frozenset[Need] = frozenset({"gates", "gradients", "squared_gradients"})
FORWARD_NEEDS: frozenset[Need] = BACKWARD_NEEDS | {"activations", "pooled", "ranks", "independence", "contributions"}


@dataclass(frozen=True)
class Subsample:
    """One image in `stride`, at most `max_images`, on which costly statistics are computed.

    The share keeps their cost a small part of the pass for few images as well as for many. The sub-sample is spread
    over the whole stream, so images sorted by class do no harm.
    """

    stride: int = 8
    max_images: int = 64

    def select_rows(self, first_image: int, count: int) -> list[int]:
        """Return the rows in the sub-sample of a batch of `count` images whose first has the number `first_image`."""
        return [
            row
            for row in range(-first_image % self.stride, count, self.stride)
            if (first_image + row) // self.stride < self.max_images
        ]


SUBSAMPLE = Subsample()

Loss = Callable[[Any, Tensor, float], Tensor]
"""Maps outputs, targets and the temperature to the sum over images of each image's loss."""

NO_LOSS = "there is no loss to take gradients of: pass one for outputs and targets (loss=)"


def cross_entropy(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Compute the summed cross-entropy of a batch, with logits divided by the temperature."""
    return F.cross_entropy(logits / temperature, labels, reduction="sum")


@dataclass(frozen=True, eq=False)
class Gate:
    """Effect on the loss of masking each channel of a group in all of its readers, each (C,).

    Attributes
    ----------
    change: mean over images of the absolute value of the sum, over readers and positions, of activation x gradient.
    square: mean over images of that sum squared. Gradients are those of one image's loss.
    """

    change: Tensor
    square: Tensor


@dataclass(frozen=True, eq=False)
class ProbeData:
    """Results of a probe; empty where no criterion needed them.

    Attributes
    ----------
    activation_stats: for each group, the statistics at every layer that reads it.
    gates: for each group.
    gradients: for each parameter, the gradient of the mean calibration loss.
    squared_gradients: for each weight that makes channels, the mean over images of its squared gradient.
    hessians: for each weight that makes channels, an estimate of the diagonal of the loss's Hessian.
    flow: for each group, synaptic saliencies, (C,).
    loss: mean cross-entropy of the calibration images, at temperature 1.
    images: number of images, and of those in the sub-sample.
    failures: needs that this network cannot serve, and why.
    """

    activation_stats: dict[str, list[ActivationStats]] = field(default_factory=dict)
    gates: dict[str, Gate] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    squared_gradients: dict[str, Tensor] = field(default_factory=dict)
    hessians: dict[str, Tensor] = field(default_factory=dict)
    flow: dict[str, Tensor] = field(default_factory=dict)
    loss: float = float("nan")
    images: tuple[int, int] = (0, 0)
    failures: dict[Need, str] = field(default_factory=dict)


def probe(
    model: nn.Module,
    maps: IndexMaps,
    batches: Iterable[tuple[Tensor, Tensor]],
    needs: Set[Need] = frozenset(NEEDS),
    *,
    temperature: float = TEMPERATURE,
    subsample: Subsample = SUBSAMPLE,
    loss: Loss | None = cross_entropy,
) -> ProbeData:
    """Pass `batches` of (images, labels) through `model` in evaluation mode and back, and compute the `needs`.

    `temperature`, at least 1, divides the logits before the cross-entropy whose gradients are taken, so that images
    which the network is sure of still have gradients. The model's weights, mode and gradients do not change. The split
    into batches makes no difference. Without a `loss`, needs that are gradients fail. Warns if the cross-entropy is so
    small that gradient criteria carry no signal. Raises ValueError without images.
    """
    if not temperature >= 1:
        raise ValueError(f"temperature is {temperature}: expected a number of at least 1")
    state = _Pass(model, maps, frozenset(needs), temperature, subsample, loss)
    with use_eval_mode(model):
        for images, labels in batches:
            state.add_batch(images, labels)
            if not state.needs & (FORWARD_NEEDS | {"hessian"}):  # the flow only needs the shape of an image
                break
        if not state.images:
            raise ValueError("the probe needs at least one calibration image")
        data = state.make_probe()
    if loss is cross_entropy and data.loss < MEMORIZED_LOSS and needs & (BACKWARD_NEEDS | {"hessian"}):
        warnings.warn(
            f"calibration loss is {data.loss:.4f}: the network has memorised these images and gradient criteria "
            "carry little signal; augment them (criteria.augment) or calibrate on others",
            stacklevel=2,
        )
    return data


class _Pass:
    """State of a running probe: hooks on the network and sums so far."""

    def __init__(
        self,
        model: nn.Module,
        maps: IndexMaps,
        needs: frozenset[Need],
        temperature: float,
        subsample: Subsample,
        loss: Loss | None,
    ) -> None:
        self.model = model
        self.maps = maps
        self.loss_fn = loss
        unserved = frozenset[Need]() if loss is not None else needs & (BACKWARD_NEEDS | {"hessian"})
        self.failures: dict[Need, str] = dict.fromkeys(unserved, NO_LOSS)
        self.needs = needs = needs - unserved
        self.temperature = temperature
        self.subsample = subsample
        self.images = 0
        self.loss_sum = 0.0
        self.image_shape: tuple[int, ...] = ()
        self.accumulators = {
            group.name: [
                StatsAccumulator(member.module, model.get_submodule(member.module), member.index, needs)
                for member in group.select_members("in")
            ]
            for group in maps.groups
        }
        self.parameters = dict(model.named_parameters())
        self.maker_weights = sorted(
            {member.tensor for group in maps.groups for member in _find_maker_weights(self.parameters, group)}
        )
        self.gradients: dict[str, Tensor] = {}
        self.squares: dict[str, Tensor] = {}
        self.gate_sums: dict[str, tuple[Tensor, Tensor]] = {}
        self.subsample_rows: list[int] = []
        self.subsample_batches: list[tuple[Tensor, Tensor]] = []
        # of the current batch: per group the sum of signed changes of its readers, (N, C)
        self.changes: dict[str, Tensor] = {}

    def add_batch(self, images: Tensor, labels: Tensor) -> None:
        """Pass one batch through the network, and back if a need requires gradients."""
        self.image_shape = tuple(images.shape[1:])
        self.subsample_rows = self.subsample.select_rows(self.images, len(images))
        if self.subsample_rows and self.needs & {"hessian", "ranks", "independence", "squared_gradients"}:
            self.subsample_batches.append((images[self.subsample_rows], labels[self.subsample_rows]))
        if self.needs & FORWARD_NEEDS:
            backward = bool(self.needs & BACKWARD_NEEDS)
            # without a need for weight gradients, a gradient by the images is enough for the hooks to run
            by_weights = "gradients" in self.needs
            for parameter in self.parameters.values():
                parameter.requires_grad_(by_weights)
            images = images.detach().requires_grad_(backward and not by_weights)
            with self._register_hooks(backward), torch.set_grad_enabled(backward):
                logits = self.model(images)
                # summed, so that every image's gradient is that of its own loss
                if self.loss_fn is not None:
                    with torch.no_grad():
                        self.loss_sum += float(self.loss_fn(logits, labels, 1.0))
                if backward:
                    wanted = list(self.parameters.values()) if by_weights else [images]
                    found = torch.autograd.grad(self._compute_loss(logits, labels), wanted, allow_unused=True)
                    if by_weights:
                        self._add_gradients(found)
            self._add_gate_sums()
        self.images += len(images)

    def make_probe(self) -> ProbeData:
        """Return all sums divided by the number of images."""
        subsampled = sum(len(labels) for _, labels in self.subsample_batches)
        stats: dict[str, list[ActivationStats]] = {}
        if self.needs & FORWARD_NEEDS:
            stats = {name: [one.compute_stats() for one in many] for name, many in self.accumulators.items()}
        return ProbeData(
            stats,
            {name: Gate(*(total / self.images for total in sums)) for name, sums in self.gate_sums.items()},
            {name: gradient / self.images for name, gradient in self.gradients.items()},
            {name: square / max(subsampled, 1) for name, square in self.squares.items()},
            self._estimate_hessians(),
            self._compute_flow(),
            self.loss_sum / self.images if self.needs & FORWARD_NEEDS and self.loss_fn is not None else float("nan"),
            (self.images, subsampled),
            self.failures,
        )

    def _compute_loss(self, logits: Any, labels: Tensor) -> Tensor:
        assert self.loss_fn is not None  # without a loss, no need for gradients is left
        return self.loss_fn(logits, labels, self.temperature)

    def _add_gradients(self, gradients: tuple[Tensor | None, ...]) -> None:
        for (name, parameter), gradient in zip(self.parameters.items(), gradients, strict=True):
            total = self.gradients.setdefault(name, torch.zeros_like(parameter, requires_grad=False))
            if gradient is not None:
                total += gradient

    def _add_gate_sums(self) -> None:
        for name, change in self.changes.items():
            sums = change.abs().sum(dim=0), change.square().sum(dim=0)
            known = self.gate_sums.get(name)
            self.gate_sums[name] = sums if known is None else (known[0] + sums[0], known[1] + sums[1])
        self.changes.clear()

    def _estimate_hessians(self) -> dict[str, Tensor]:
        if "hessian" not in self.needs:
            return {}
        weights = {name: self.parameters[name] for name in self.maker_weights}
        for name, parameter in self.parameters.items():
            parameter.requires_grad_(name in weights)
        images, labels = (torch.cat(parts) for parts in zip(*self.subsample_batches, strict=True))
        try:
            with torch.enable_grad():
                return estimate_hessian_diagonals(
                    lambda x, y: self._compute_loss(self.model(x), y), weights, images, labels
                )
        except RuntimeError as error:  # an operation without second derivative, or too little memory for the graph
            self.failures["hessian"] = f"the Hessian could not be sampled: {format_reason(error)}"
            return {}

    def _compute_flow(self) -> dict[str, Tensor]:
        if "flow" not in self.needs:
            return {}
        try:
            return compute_synaptic_flow(self.model, self.maps, self.image_shape)
        except Exception as error:  # user-defined networks may raise anything on an image of ones in float64
            self.failures["flow"] = f"the synaptic flow failed with {format_error(error)}"
            return {}

    @contextmanager
    def _register_hooks(self, backward: bool) -> Iterator[None]:
        """Register hooks on every layer that reads or makes a group's channels, inside this context."""
        hooks = []
        try:
            for module, readers in self._group_by_module().items():
                hooks.append(module.register_forward_pre_hook(self._make_input_hook(readers, backward)))
            if "squared_gradients" in self.needs and self.subsample_rows:
                for name in self.maker_weights:
                    module = self.model.get_submodule(name.rpartition(".")[0])
                    hooks.append(module.register_forward_hook(self._make_output_hook(name)))
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _group_by_module(self) -> dict[nn.Module, list[tuple[str, StatsAccumulator]]]:
        readers: dict[nn.Module, list[tuple[str, StatsAccumulator]]] = {}
        for name, many in self.accumulators.items():
            for one in many:
                readers.setdefault(one.module, []).append((name, one))
        return readers

    def _make_input_hook(
        self, readers: list[tuple[str, StatsAccumulator]], backward: bool
    ) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        def record_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            # an alias, so that the gradient is that of this reader only
            activation = inputs[0].view_as(inputs[0])
            detached = activation.detach()
            with torch.no_grad():
                for _, accumulator in readers:
                    accumulator.add_batch(detached, self.images, self.subsample_rows)
            if backward and "gates" in self.needs and activation.requires_grad:
                hook = partial(self._record_gradient, readers, detached)
                activation.register_hook(hook)  # type: ignore[no-untyped-call]
            return (activation, *inputs[1:])

        return record_input

    def _record_gradient(
        self, readers: list[tuple[str, StatsAccumulator]], activation: Tensor, gradient: Tensor
    ) -> None:
        with torch.no_grad():
            product = activation * gradient
            for name, accumulator in readers:
                change = accumulator.sum_over_positions(product).double()
                self.changes[name] = self.changes[name] + change if name in self.changes else change

    def _make_output_hook(self, weight: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def register_square(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            rows = self.subsample_rows
            subsampled = inputs[0].detach()[rows]

            def add_square(gradient: Tensor) -> None:
                with torch.no_grad():
                    square = compute_squared_gradient(module, subsampled, gradient[rows])
                    known = self.squares.get(weight)
                    self.squares[weight] = square if known is None else known + square

            if output.requires_grad:
                output.register_hook(add_square)  # type: ignore[no-untyped-call]

        return register_square


def _find_maker_weights(parameters: dict[str, nn.Parameter], group: Group) -> list[Member]:
    """Return the members that are weights of layers which make the group's channels."""
    return [
        member
        for member in group.select_members("out")
        if member.tensor.endswith("weight") and member.tensor in parameters and parameters[member.tensor].ndim > 1
    ]
