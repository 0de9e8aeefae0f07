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
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blendsearch.data.splits import Splits
from blendsearch.structure.eval_mode import use_eval_mode
from blendsearch.structure.groups import Cut, IndexMaps
from blendsearch.structure.removed_layers import RemovedLayer
from blendsearch.training.device import Precision, autocast
from blendsearch.training.refit_depthwise import SWEEPS, fit_pair
from blendsearch.training.refit_patches import extract_patches, flatten_weight, unflatten_weight
from blendsearch.training.refit_solver import compute_gram, solve_ridge

IMAGES = 256
"""Largest number of training images on which layers are fitted, in one batch.

With 128, six cuts of ResNet-56 lose 2.5 points on average (`experiments/performance/refit.py`, which can set these
three).
"""

MIN_ROWS = 4096
"""Least number of outputs of a layer to fit, spread evenly over the images at random positions."""

ROWS_PER_INPUT = 8
"""Outputs to fit per input that the cut keeps in a layer, if its feature maps have that many.

With 4 and half of `MIN_ROWS`, the same cuts lose another 2.1 points on 128 images. With 2 and a quarter, four of them
lose 10 points on 256 images.
"""

MIN_ROWS_PER_INPUT = 4
"""Outputs per input below which a layer is not refitted, since it would overfit the images."""

MAX_INPUTS = 4608
"""Inputs of a layer (3x3 convolution over 512 channels) above which it is not refitted."""

MAX_LOADED_BYTES = 2**30
"""Largest size of targets and images that a refitter keeps on an accelerator between candidates."""

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
    positions: (images, m), sampled positions of each image's flattened output, in random order; m is 1 for a linear
        layer.
    outputs: float32 (images, m, outputs), the outputs at these positions.
    has_prunable_inputs: True if the layer reads channels that can be cut.
    """

    tensor: str
    module: str
    positions: Tensor
    outputs: Tensor
    has_prunable_inputs: bool = True

    def to(self, device: torch.device) -> "Target":
        return replace(self, positions=self.positions.to(device), outputs=self.outputs.to(device))

    def select_outputs(self, layer: nn.Module, maps: IndexMaps, kept: Cut) -> tuple[Tensor, Tensor]:
        """Return the positions (images, m) and outputs (images * m, kept outputs) to which `layer` is fitted.

        `layer` is this layer after the cut, perhaps decomposed, and `kept` the padded cut.
        """
        count = -(-max(MIN_ROWS, ROWS_PER_INPUT * _count_inputs(layer)) // len(self.positions))
        outputs = self.outputs[:, :count].flatten(0, 1)
        sources = {dim: maps.sources[number] for dim, number in maps.slices.get(self.tensor, ())}
        if 0 in sources:
            outputs = outputs[:, torch.from_numpy(np.flatnonzero(kept[sources[0]])).to(outputs.device)]
        return self.positions[:, :count], outputs


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
    _loaded: dict[torch.device, tuple[tuple[Target, ...], Tensor]] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, maps: IndexMaps, cut: Cut, module: nn.Module) -> None:
        """Refit weights and biases of `module`, which was cut by `cut`, in place, in one forward pass.

        On the fitted outputs, given the same inputs, no layer ends further from the dense network's than with the
        weights that the cut left.
        """
        decomposed = set(maps.find_decomposed_layers(cut))
        if cut.all() or not (self.options.all_layers or decomposed):
            return
        device = next(module.parameters()).device
        targets, images = self._load(device)
        kept = np.append(cut, True)
        hooks = []
        for target in targets:
            layer, pair = module.get_submodule(target.module), target.module in decomposed
            if isinstance(layer, RemovedLayer):
                continue
            if pair or (self.options.all_layers and target.has_prunable_inputs):
                outputs = target.select_outputs(layer, maps, kept)
                hook = (_PairRefitHook if pair else _RefitHook)(*outputs, self.options)
                hooks.append(layer.register_forward_pre_hook(hook))
        try:
            with torch.no_grad(), self._use_recovery_statistics(module), autocast(device, self.options.precision):
                module(images)
        finally:
            for handle in hooks:
                handle.remove()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_loaded": {}}

    def _load(self, device: torch.device) -> tuple[tuple[Target, ...], Tensor]:
        """Return targets and images on `device`, and keep them there if they take at most `MAX_LOADED_BYTES`."""
        if device.type == "cpu":
            return self.targets, self.images
        if device in self._loaded:
            return self._loaded[device]
        loaded = tuple(target.to(device) for target in self.targets), self.images.to(device)
        if self.images.nbytes + sum(target.outputs.nbytes for target in self.targets) <= MAX_LOADED_BYTES:
            self._loaded[device] = loaded
        return loaded

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
            self.fit(layer, inputs[0])

    def fit(self, layer: nn.Module, x: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        weight = flatten_weight(layer.weight)
        if self.count_rows() < MIN_ROWS_PER_INPUT * weight.shape[1]:
            return
        rows, mean, targets, target_mean = self.center(extract_patches(layer, x, self.positions), layer.bias)
        cross_moments = rows.T @ (targets - rows @ weight.T) / len(rows)
        fitted = weight + solve_ridge(compute_gram(rows), cross_moments, self.options.ridge).T
        layer.weight.copy_(unflatten_weight(fitted, layer.weight.shape))
        if layer.bias is not None:
            update_bias(layer.bias, target_mean - fitted @ mean)

    def count_rows(self) -> int:
        return self.positions.numel()

    def center(self, rows: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return rows and targets without their means, and the means; zero means if nothing can absorb them.

        Overwrites `rows`.
        """
        mean, target_mean = rows.new_zeros(rows.shape[1]), self.targets.new_zeros(self.targets.shape[1])
        if bias is not None or self.options.recalibration:
            mean, target_mean = rows.mean(dim=0), self.targets.mean(dim=0)
        return rows.sub_(mean), mean, self.targets - target_mean, target_mean


class _PairRefitHook(_RefitHook):
    """Fits a depthwise and a pointwise convolution that replace one layer."""

    def fit(self, layer: nn.Module, x: Tensor) -> None:
        depthwise, pointwise = layer.get_submodule("depthwise"), layer.get_submodule("pointwise")
        assert isinstance(depthwise, nn.Conv2d) and isinstance(pointwise, nn.Conv2d)
        # unknowns: one weight per input channel and output, then all taps of the depthwise half by all outputs
        taps = depthwise.weight[0].numel()
        if self.count_rows() < MIN_ROWS_PER_INPUT * max(
            depthwise.out_channels, depthwise.weight.numel() // pointwise.out_channels
        ):
            return
        rows, mean, targets, target_mean = self.center(extract_patches(depthwise, x, self.positions), pointwise.bias)
        by_channel = torch.arange(rows.shape[1], device=rows.device).reshape(taps, -1).T.flatten()
        gram = compute_gram(rows)[by_channel][:, by_channel]
        cross_moments = (rows.T @ targets)[by_channel] / len(rows)
        halves = depthwise.weight.flatten(1), pointwise.weight.flatten(1)
        deep, wide = fit_pair(gram, cross_moments, *halves, self.options.ridge, self.options.sweeps)
        depthwise.weight.copy_(deep.reshape(depthwise.weight.shape))
        pointwise.weight.copy_(wide.reshape(pointwise.weight.shape))
        if pointwise.bias is not None:
            mean_outputs = (mean[by_channel].reshape(deep.shape) * deep).sum(dim=1)
            update_bias(pointwise.bias, target_mean - wide @ mean_outputs)


def update_bias(bias: Tensor, fitted: Tensor) -> None:
    """Overwrite the elements of `bias` for which `fitted` is finite."""
    bias.copy_(torch.where(torch.isfinite(fitted), fitted, bias))


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

    These layers are not refitted: those that read each channel alone, grouped, transposed, 1-D and 3-D convolutions,
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
        found[name] = Target(tensor, name, positions.cpu(), picked.transpose(1, 2).cpu(), tensor in readers)

    hooks = []
    for tensor, name in fitted.items():
        layer = model.get_submodule(name)
        if _can_refit(layer):
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


def _can_refit(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        return False
    return isinstance(layer, nn.Conv2d | nn.Linear) and layer.weight[0].numel() <= MAX_INPUTS


def _count_inputs(layer: nn.Module) -> int:
    """Count the inputs of a layer, or of the layer that a pair replaces: channels times taps."""
    if isinstance(layer, nn.Conv2d | nn.Linear):
        return layer.weight[0].numel()
    depthwise = layer.get_submodule("depthwise")
    assert isinstance(depthwise, nn.Conv2d)
    return depthwise.weight.numel()


def _sample_positions(images: int, size: int, count: int) -> Tensor:
    """Sample `count` of `size` positions of a feature map for each image, or all if there are no more: (images, m).

    They are in random order, so any prefix is a fair sample.
    """
    every: NDArray[np.int64] = np.tile(np.arange(size, dtype=np.int64), (images, 1))
    return torch.from_numpy(np.ascontiguousarray(np.random.default_rng(0).permuted(every, axis=1)[:, :count]))
