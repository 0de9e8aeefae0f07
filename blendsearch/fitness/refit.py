"""One step between cutting and recovery: each layer is refitted to what it said in the dense network.

A layer that reads cut channels loses their contribution, and those before it have changed what the kept ones say. From
first to last, each layer's weights are set by least squares so that from its inputs in the narrow network, as they are
once the layers before it are repaired, it comes closest to its output in the dense one. No label is looked at, no
gradient taken, and the narrow network has the shape it had. After He, Zhang and Sun 2017, "Channel Pruning for
Accelerating Very Deep Neural Networks", section 3: positions are sampled, and the target is the dense network's.

A layer that the cut decomposes (structure.depthwise) is fitted in the same way as a pair (fitness.depthwise), whether
the others are refitted or not.

`experiments/repair.py` measures it against two cheaper ways that are not kept: the same least squares from the dense
network's inputs alone, which is blind to errors that add up, and merging a removed channel into the kept one that
explains most of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from blendsearch.data.splits import Splits, iter_batches
from blendsearch.fitness.device import Precision, autocast
from blendsearch.fitness.refit_depthwise import SWEEPS, fit_pair, solve_ridge
from blendsearch.structure.eval_mode import use_eval_mode
from blendsearch.structure.groups import Cut, IndexMaps

IMAGES = 256
"""Training images on which layers are fitted, in one batch."""

MIN_ROWS = 4096
"""Outputs of one layer that are fitted at least, spread evenly over the images at random positions."""

ROWS_PER_INPUT = 8
"""As many more as a wide layer's inputs want, where its feature maps have them."""

MIN_ROWS_PER_INPUT = 4
"""Below it a layer is left as the cut made it: it would learn the images by heart."""

MAX_INPUTS = 4608
"""Inputs of one layer, those of a 3x3 convolution over 512 channels, above which it is left as the cut made it."""

RIDGE = 1e-2
"""Draws the weights towards those that the cut kept, as a share of the inputs' mean variance. From 1e-3 to 1e-1
accuracy moves by 1.6 points at most, mostly upwards (`experiments/repair.py`)."""


@dataclass(frozen=True, eq=False)
class Target:
    """What one layer said in the dense network.

    Attributes
    ----------
    tensor, module: names of the weight and of the layer.
    positions: (images, m), which of each image's flattened output positions are fitted; m is one for a linear layer.
    outputs: float32, (images * m, outputs), there.
    reads: whether the layer reads channels that can be cut.
    """

    tensor: str
    module: str
    positions: Tensor
    outputs: Tensor
    has_prunable_inputs: bool = True


@dataclass(frozen=True, eq=False)
class Refitter:
    """How the narrow networks of one dense network are repaired.

    Attributes
    ----------
    targets: of every layer that can be repaired.
    images: the normalised images behind them, (images, channels, height, width).
    renewed: whether batch-norm statistics are estimated anew afterwards. Then they are those of the batch while layers
        are fitted, and take up the means that layers without a bias lose.
    refit: whether all layers that read what was cut are fitted, or only those that the cut decomposes.
    sweeps: how often the depthwise half of a decomposed layer is fitted (fitness.depthwise).
    """

    targets: tuple[Target, ...]
    images: Tensor
    recalibration: bool
    precision: Precision = "float32"
    ridge: float = RIDGE
    all_layers: bool = True
    sweeps: int = SWEEPS

    def __call__(self, maps: IndexMaps, cut: Cut, module: nn.Module) -> None:
        """Change the layers' weights and biases of `narrowed`, cut by `cut`, in place; one forward pass.

        On the fitted outputs no layer ends further from the dense network's than the weights that it was cut with would
        have left it, given the same inputs.
        """
        decomposed = set(maps.find_decomposed_layers(cut))
        if cut.all() or not (self.all_layers or decomposed):
            return
        kept = np.append(cut, True)
        place = next(module.parameters()).device
        hooks = []
        for target in self.targets:
            pair = target.module in decomposed
            if not pair and not (self.all_layers and target.has_prunable_inputs):
                continue
            sources = {dim: maps.sources[number] for dim, number in maps.slices.get(target.tensor, ())}
            wanted = target.outputs.to(place)
            if 0 in sources:
                wanted = wanted[:, torch.from_numpy(np.flatnonzero(kept[sources[0]])).to(place)]
            fit = (_PairRefitHook if pair else _RefitHook)(target.positions.to(place), wanted, self)
            hooks.append(module.get_submodule(target.module).register_forward_pre_hook(fit))
        try:
            with torch.no_grad(), self._use_recovery_statistics(module), autocast(place, self.precision):
                module(self.images.to(place))
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def _use_recovery_statistics(self, module: nn.Module) -> Iterator[None]:
        """Inside, batch-norms normalise as they will after recovery; their running statistics stay as they are."""
        norms = [item for item in module.modules() if isinstance(item, nn.modules.batchnorm._BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        with use_eval_mode(module):
            for norm in norms if self.recalibration else ():
                norm.train()
                norm.momentum = 0.0
            try:
                yield
            finally:
                for norm, momentum in zip(norms, momenta, strict=True):
                    norm.momentum = momentum


class _RefitHook:
    """Refits one layer just before its first use, to what it is about to read."""

    def __init__(self, positions: Tensor, targets: Tensor, refitter: Refitter) -> None:
        self.positions, self.targets, self.refitter = positions, targets, refitter
        self.done = False

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self.done:  # a layer that is used twice is fitted to its first use
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
        rows, mean, wanted, middle = self.center(rows, layer.bias)
        missing = wanted - rows @ weight.T
        gram = (rows.T @ rows).double() / len(rows)
        across = (rows.T @ missing).double() / len(rows)
        fitted = weight + solve_ridge(gram, across, self.refitter.ridge).T.float()
        layer.weight.copy_(fitted.reshape(layer.weight.shape))
        if layer.bias is not None:
            layer.bias.copy_(middle - fitted @ mean)

    def center(self, rows: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`rows`, their means taken off, the same of what is wanted; zeros where nothing takes up the means."""
        mean, middle = rows.new_zeros(rows.shape[1]), self.targets.new_zeros(self.targets.shape[1])
        if bias is not None or self.refitter.recalibration:
            mean, middle = rows.mean(dim=0), self.targets.mean(dim=0)
        return rows - mean, mean, self.targets - middle, middle


class _PairRefitHook(_RefitHook):
    """Fits a depthwise and a pointwise convolution that stand for one layer."""

    def fit(self, layer: nn.Module, x: Tensor) -> None:
        depthwise, pointwise = layer.get_submodule("depthwise"), layer.get_submodule("pointwise")
        assert isinstance(depthwise, nn.Conv2d) and isinstance(pointwise, nn.Conv2d)
        rows = extract_patches(depthwise, x, self.positions)
        # one weight per input channel and output, then all taps of the depthwise half at once by all outputs
        if len(rows) < MIN_ROWS_PER_INPUT * max(depthwise.out_channels, rows.shape[1] // pointwise.out_channels):
            return
        rows, mean, wanted, middle = self.center(rows, pointwise.bias)
        gram, across = (rows.T @ rows).double() / len(rows), (rows.T @ wanted).double() / len(rows)
        halves = depthwise.weight.flatten(1).double(), pointwise.weight.flatten(1).double()
        pair = fit_pair(gram, across, *halves, self.refitter.ridge, self.refitter.sweeps)
        deep, wide = (half.float() for half in pair)
        depthwise.weight.copy_(deep.reshape(depthwise.weight.shape))
        pointwise.weight.copy_(wide.reshape(pointwise.weight.shape))
        if pointwise.bias is not None:
            pointwise.bias.copy_(middle - wide @ (mean.reshape(deep.shape) * deep).sum(dim=1))


def make_refitter(
    model: nn.Module,
    maps: IndexMaps,
    splits: Splits,
    *,
    images: int,
    device: torch.device,
    recalibration: bool,
    precision: Precision = "float32",
    ridge: float = RIDGE,
    all_layers: bool = True,
) -> Refitter:
    """What every cut of `model` is repaired with, from its outputs on the first training images, `IMAGES` at most.

    `renewed`: whether batch-norm statistics are estimated anew after the repair; `refit`: whether whole layers are
    fitted too, or only decomposed ones. Left out, and so left as the cut made
    them: layers that see each channel alone, transposed and one- or three-dimensional convolutions, parameter-free
    shortcuts, linear layers with more than one position, and layers of more than `WIDEST` inputs.
    """
    count = min(images, IMAGES)
    batch, _ = next(
        iter_batches(splits.train, batch_size=count, mean=splits.mean, std=splits.std, device=device, limit=count)
    )
    readers = (
        {member.tensor: member.module for group in maps.groups for member in group.select_members("in")}
        if all_layers
        else {}
    )
    fitted = readers | {f"{name}.weight": name for name in maps.layers}
    found: dict[str, Target] = {}

    def record_target(tensor: str, name: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if name in found or len(output) != count or output.ndim != (4 if isinstance(layer, nn.Conv2d) else 2):
            return
        wanted = max(MIN_ROWS, ROWS_PER_INPUT * model.get_parameter(tensor)[0].numel())
        flat = output.reshape(count, output.shape[1], -1)
        positions = _sample_positions(count, flat.shape[2], -(-wanted // count)).to(device)
        picked = flat.gather(2, positions[:, None, :].expand(-1, flat.shape[1], -1))
        found[name] = Target(
            tensor, name, positions.cpu(), picked.transpose(1, 2).flatten(0, 1).cpu(), tensor in readers
        )

    hooks = []
    for tensor, name in fitted.items():
        layer = model.get_submodule(name)
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.weight[0].numel() <= MAX_INPUTS:
            hooks.append(layer.register_forward_hook(lambda *seen, of=(tensor, name): record_target(*of, *seen)))
    try:
        with use_eval_mode(model), torch.no_grad():
            model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    recalibration = recalibration and any(isinstance(item, nn.modules.batchnorm._BatchNorm) for item in model.modules())
    return Refitter(tuple(found.values()), batch.cpu(), recalibration, precision, ridge, all_layers)


def extract_patches(layer: nn.Conv2d | nn.Linear, x: Tensor, positions: Tensor) -> Tensor:
    """What `layer` reads of its input `x` to make its output at `positions`, (images * m, inputs).

    `positions` has shape (images, m), in the flattened output; inputs stand in the order of the flattened weight.
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
    """For each image `each` of the places of a feature map, all where there are no more, (images, m)."""
    every: NDArray[np.int64] = np.tile(np.arange(size, dtype=np.int64), (images, 1))
    if size > count:
        every = np.random.default_rng(0).permuted(every, axis=1)[:, :count]
    return torch.from_numpy(np.ascontiguousarray(every))
