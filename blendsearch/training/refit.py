"""Least-squares refit of layers, between the cut and recovery.

A layer that reads cut channels loses their contribution, and the layers before it have changed the kept inputs. From
first to last, least squares sets each layer's weights so that its outputs in the pruned network are closest to its
outputs in the dense one. Its inputs are those after the refit of the layers before it. No labels and no gradients are
used, and shapes do not change. After He, Zhang and Sun 2017, "Channel Pruning for Accelerating Very Deep Neural
Networks", section 3: positions are sampled, and the target is the dense network's output.

A layer that the cut decomposes (`structure.depthwise`) is fitted as a pair (`training.refit_depthwise`), even when
other layers are not refitted.

`experiments/repair.py` compares this with two cheaper ways that were dropped: the same least squares from the dense
network's inputs alone, which ignores errors that add up, and merging a removed channel into the kept one that explains
most of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from blendsearch.data.splits import Splits
from blendsearch.structure.eval_mode import use_eval_mode
from blendsearch.structure.groups import Cut, IndexMaps
from blendsearch.training.device import Precision, autocast
from blendsearch.training.refit_depthwise import SWEEPS, fit_pair, solve_ridge

IMAGES = 256
"""Largest number of training images on which layers are fitted, in one batch."""

MIN_ROWS = 4096
"""Least number of outputs of a layer to fit, spread evenly over the images at random positions."""

ROWS_PER_INPUT = 8
"""Outputs to fit per input of a layer, if its feature maps have that many."""

MIN_ROWS_PER_INPUT = 4
"""Outputs per input below which a layer is not refitted, since it would overfit the images."""

MAX_INPUTS = 4608
"""Inputs of a layer (3x3 convolution over 512 channels) above which it is not refitted."""

RIDGE = 1e-2
"""Pull towards the weights that the cut kept, as a share of the inputs' mean variance. Between 1e-3 and 1e-1 the
accuracy changes by at most 1.6 points, mostly upwards (`experiments/repair.py`).
"""


@dataclass(frozen=True, eq=False)
class Target:
    """Outputs of one layer of the dense network.

    Attributes
    ----------
    tensor, module: names of the weight and of the layer.
    positions: (images, m), fitted positions of each image's flattened output; m is 1 for a linear layer.
    outputs: float32 (images * m, outputs), the outputs at these positions.
    has_prunable_inputs: True if the layer reads channels that can be cut.
    """

    tensor: str
    module: str
    positions: Tensor
    outputs: Tensor
    has_prunable_inputs: bool = True


@dataclass(frozen=True)
class RefitOptions:
    """Settings of a refit.

    Attributes
    ----------
    recalibration: True if batch-norm statistics are estimated anew afterwards. Then batch-norms use those of the batch
        while layers are fitted, and absorb the means that layers without a bias lose.
    precision: precision of the products in the forward pass.
    ridge: pull towards the weights that the cut kept, as a share of the inputs' mean variance.
    all_layers: True to fit all layers that read cut channels, False to fit only decomposed layers.
    sweeps: number of fits of the depthwise convolution of a decomposed layer (`training.refit_depthwise`).
    """

    recalibration: bool
    precision: Precision = "float32"
    ridge: float = RIDGE
    all_layers: bool = True
    sweeps: int = SWEEPS


@dataclass(frozen=True, eq=False)
class Refitter:
    """Refits the pruned networks of one dense network.

    Attributes
    ----------
    targets: one per layer that can be refitted.
    images: the normalised images behind the targets, (images, channels, height, width).
    """

    targets: tuple[Target, ...]
    images: Tensor
    options: RefitOptions

    def __call__(self, maps: IndexMaps, cut: Cut, module: nn.Module) -> None:
        """Refit weights and biases of `module`, which was cut by `cut`, in place, in one forward pass.

        On the fitted outputs, given the same inputs, no layer ends further from the dense network's than with the
        weights that the cut left.
        """
        decomposed = set(maps.find_decomposed_layers(cut))
        if cut.all() or not (self.options.all_layers or decomposed):
            return
        kept = np.append(cut, True)
        device = next(module.parameters()).device
        hooks = []
        for target in self.targets:
            pair = target.module in decomposed
            if not pair and not (self.options.all_layers and target.has_prunable_inputs):
                continue
            sources = {dim: maps.sources[number] for dim, number in maps.slices.get(target.tensor, ())}
            outputs = target.outputs.to(device)
            if 0 in sources:
                outputs = outputs[:, torch.from_numpy(np.flatnonzero(kept[sources[0]])).to(device)]
            fit = (_PairRefitHook if pair else _RefitHook)(target.positions.to(device), outputs, self.options)
            hooks.append(module.get_submodule(target.module).register_forward_pre_hook(fit))
        try:
            with torch.no_grad(), self._use_recovery_statistics(module), autocast(device, self.options.precision):
                module(self.images.to(device))
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def _use_recovery_statistics(self, module: nn.Module) -> Iterator[None]:
        """Normalise inside as batch-norms will after recovery; running statistics do not change."""
        norms = [item for item in module.modules() if isinstance(item, nn.modules.batchnorm._BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        with use_eval_mode(module):
            for norm in norms if self.options.recalibration else ():
                norm.train()
                norm.momentum = 0.0
            try:
                yield
            finally:
                for norm, momentum in zip(norms, momenta, strict=True):
                    norm.momentum = momentum


class _RefitHook:
    """Pre-forward hook that refits one layer on its input, at its first call."""

    def __init__(self, positions: Tensor, targets: Tensor, options: RefitOptions) -> None:
        self.positions, self.targets, self.options = positions, targets, options
        self.done = False

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self.done:  # a layer that is called twice is fitted at its first call
            return
        self.done = True
        with torch.autocast(inputs[0].device.type, enabled=False):
            self.fit(layer, inputs[0].float())

    def fit(self, layer: nn.Module, x: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        rows = extract_patches(layer, x, self.positions)
        if len(rows) < MIN_ROWS_PER_INPUT * rows.shape[1]:
            return
        weight = layer.weight.flatten(1)
        rows, mean, targets, target_mean = self.center(rows, layer.bias)
        residuals = targets - rows @ weight.T
        gram = (rows.T @ rows).double() / len(rows)
        cross_moments = (rows.T @ residuals).double() / len(rows)
        fitted = weight + solve_ridge(gram, cross_moments, self.options.ridge).T.float()
        layer.weight.copy_(fitted.reshape(layer.weight.shape))
        if layer.bias is not None:
            layer.bias.copy_(target_mean - fitted @ mean)

    def center(self, rows: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return rows and targets without their means, and the means; zero means if nothing can absorb them."""
        mean, target_mean = rows.new_zeros(rows.shape[1]), self.targets.new_zeros(self.targets.shape[1])
        if bias is not None or self.options.recalibration:
            mean, target_mean = rows.mean(dim=0), self.targets.mean(dim=0)
        return rows - mean, mean, self.targets - target_mean, target_mean


class _PairRefitHook(_RefitHook):
    """Fits a depthwise and a pointwise convolution that replace one layer."""

    def fit(self, layer: nn.Module, x: Tensor) -> None:
        depthwise, pointwise = layer.get_submodule("depthwise"), layer.get_submodule("pointwise")
        assert isinstance(depthwise, nn.Conv2d) and isinstance(pointwise, nn.Conv2d)
        rows = extract_patches(depthwise, x, self.positions)
        # unknowns: one weight per input channel and output, then all taps of the depthwise half by all outputs
        if len(rows) < MIN_ROWS_PER_INPUT * max(depthwise.out_channels, rows.shape[1] // pointwise.out_channels):
            return
        rows, mean, targets, target_mean = self.center(rows, pointwise.bias)
        gram, cross_moments = (rows.T @ rows).double() / len(rows), (rows.T @ targets).double() / len(rows)
        halves = depthwise.weight.flatten(1).double(), pointwise.weight.flatten(1).double()
        pair = fit_pair(gram, cross_moments, *halves, self.options.ridge, self.options.sweeps)
        deep, wide = (half.float() for half in pair)
        depthwise.weight.copy_(deep.reshape(depthwise.weight.shape))
        pointwise.weight.copy_(wide.reshape(pointwise.weight.shape))
        if pointwise.bias is not None:
            pointwise.bias.copy_(target_mean - wide @ (mean.reshape(deep.shape) * deep).sum(dim=1))


def make_refitter(
    model: nn.Module,
    maps: IndexMaps,
    splits: Splits,
    *,
    images: int,
    device: torch.device,
    options: RefitOptions,
) -> Refitter:
    """Make the refitter of all cuts of `model`, from its outputs on the first `images` training images (at most
    `IMAGES`).

    These layers are not refitted: those that read each channel alone, transposed, 1-D and 3-D convolutions,
    parameter-free shortcuts, linear layers with more than one position, and layers of more than `MAX_INPUTS` inputs.
    """
    count = min(images, IMAGES)
    batch, _ = next(splits.iter_batches(splits.train, batch_size=count, device=device, limit=count))
    readers = (
        {member.tensor: member.module for group in maps.groups for member in group.select_members("in")}
        if options.all_layers
        else {}
    )
    fitted = readers | {f"{name}.weight": name for name in maps.layers}
    found: dict[str, Target] = {}

    def record_target(tensor: str, name: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if name in found or len(output) != count or output.ndim != (4 if isinstance(layer, nn.Conv2d) else 2):
            return
        rows = max(MIN_ROWS, ROWS_PER_INPUT * model.get_parameter(tensor)[0].numel())
        flat = output.reshape(count, output.shape[1], -1)
        positions = _sample_positions(count, flat.shape[2], -(-rows // count)).to(device)
        picked = flat.gather(2, positions[:, None, :].expand(-1, flat.shape[1], -1))
        found[name] = Target(
            tensor, name, positions.cpu(), picked.transpose(1, 2).flatten(0, 1).cpu(), tensor in readers
        )

    hooks = []
    for tensor, name in fitted.items():
        layer = model.get_submodule(name)
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.weight[0].numel() <= MAX_INPUTS:
            hooks.append(layer.register_forward_hook(partial(record_target, tensor, name)))
    try:
        with use_eval_mode(model), torch.no_grad():
            model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    has_norms = any(isinstance(item, nn.modules.batchnorm._BatchNorm) for item in model.modules())
    options = replace(options, recalibration=options.recalibration and has_norms)
    return Refitter(tuple(found.values()), batch.cpu(), options)


def extract_patches(layer: nn.Conv2d | nn.Linear, x: Tensor, positions: Tensor) -> Tensor:
    """Return the inputs of `layer` for its outputs at `positions`, from its input `x`: (images * m, inputs).

    `positions` has shape (images, m), in the flattened output. Inputs are in the order of the flattened weight.
    """
    if isinstance(layer, nn.Linear):
        return x
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode)
    wide = x.shape[3]
    (tall, broad), (down, right), (apart, aside) = layer.kernel_size, layer.stride, layer.dilation
    columns = (wide - aside * (broad - 1) - 1) // right + 1
    taps = apart * torch.arange(tall)[:, None] * wide + aside * torch.arange(broad)
    corner = (positions // columns) * (down * wide) + positions % columns * right
    at = (corner[:, :, None] + taps.to(x.device).flatten()).flatten(1)  # (images, m * taps)
    read = x.flatten(2).gather(2, at[:, None, :].expand(-1, x.shape[1], -1))
    images, each = positions.shape
    return read.reshape(images, x.shape[1], each, -1).transpose(1, 2).reshape(images * each, -1)


def _sample_positions(images: int, size: int, count: int) -> Tensor:
    """Sample `count` of `size` positions of a feature map for each image; all if there are no more: (images, m)."""
    every: NDArray[np.int64] = np.tile(np.arange(size, dtype=np.int64), (images, 1))
    if size > count:
        every = np.random.default_rng(0).permuted(every, axis=1)[:, :count]
    return torch.from_numpy(np.ascontiguousarray(every))
