"""Exact costs of cuts from their widths alone, for many cuts at once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, _FlopCounterMode

from blendsearch.dynamo import skip_dynamo
from blendsearch.structure.groups import ALWAYS, IndexMaps

COSTS = ("macs", "params")
Cost = Callable[[NDArray[np.int64]], NDArray[np.int64]]
"""Maps kept channels per group, (..., groups), to a cost in whole units, (...); never less for a wider network."""

LAYERS = (nn.modules.conv._ConvNd, nn.Linear)


@dataclass(frozen=True, eq=False)
class CostOracle:
    """Multiply-accumulates and parameters of any cut.

    Every parameter tensor is a term: a factor times the widths of two of its dimensions. A width is linear in the
    kept channels per group. Multiply-accumulates (of one input image) are those of convolutions and linear layers: the
    size of a term times the number of positions at which the layer is applied. No cut of channels changes that number.

    Attributes
    ----------
    base, slope: widths, (W,) and (W, groups): width = base + slope @ counts.
    first, second: (T,) the two widths of each term.
    params, macs: (T,) the factor of each term.
    fixed_macs: multiply-accumulates of operations that no group touches and no layer owns.
    dense: each cost of the dense network.
    extra_costs: further costs by name: ``memory`` in bytes (`structure.peak_memory`), ``latency`` in nanoseconds
        (`structure.latency_model`).
    layers: (L,) the weight terms, (out, in), of layers that may be decomposed.
    undecomposed: (L,) 1 if such a layer is not decomposed, 0 if it is decomposed where that costs less. Used where
        counts do not include layers.
    """

    base: NDArray[np.int64]
    slope: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    params: NDArray[np.int64]
    macs: NDArray[np.int64]
    fixed_macs: int
    dense: Mapping[str, int]
    extra_costs: Mapping[str, Cost] = field(default_factory=dict)
    layers: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    undecomposed: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def compute_cost(self, name: str, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Compute cost `name` of kept channels per group, optionally followed by undecomposed layers: (..., groups
        [+ L]) -> (...).
        """
        if name in self.extra_costs:
            return self.extra_costs[name](counts)
        if name not in COSTS:
            raise ValueError(f"no cost is called {name!r}: expected one of {', '.join(self.dense)}")
        factors = self.macs if name == "macs" else self.params
        counts, undecomposed = np.split(counts, [self.slope.shape[1]], axis=-1)
        widths = counts @ self.slope.T + self.base
        sizes = widths[..., self.first] * widths[..., self.second]
        found = sizes @ factors + (self.fixed_macs if name == "macs" else 0)
        if len(self.layers):
            saved = self._compute_savings(factors, widths)
            if undecomposed.shape[-1]:
                saved = saved * (1 - undecomposed)
            else:
                saved = np.maximum(saved, 0) * (1 - self.undecomposed)
            found = found - saved.sum(axis=-1)
        return np.asarray(found)

    def _compute_savings(self, factors: NDArray[np.int64], widths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Compute what decomposition saves per layer, (..., L): area x in x out becomes area x in + in x out, at all
        positions.
        """
        out, into = widths[..., self.first[self.layers]], widths[..., self.second[self.layers]]
        area, own = self.params[self.layers], factors[self.layers]
        return np.asarray(own * into * out - into * (own + own // area * out))

    def is_cheaper_decomposed(self, counts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return, per layer, True if it costs less decomposed at these kept channels per group: (..., groups) ->
        (..., L).
        """
        widths = counts @ self.slope.T + self.base
        return np.asarray(self._compute_savings(self.params, widths) > 0)

    @property
    def all_decomposed(self) -> "CostOracle":
        """This oracle for networks in which every one of `layers` is decomposed where that costs less."""
        return self.decompose_except(np.zeros(len(self.layers), dtype=np.bool_))

    def decompose_except(self, undecomposed: NDArray[np.bool_]) -> "CostOracle":
        """Return this oracle for networks in which only `undecomposed` layers, (L,), are not decomposed where that
        costs less.

        The costs still never fall when a network gets wider.
        """
        return replace(self, undecomposed=undecomposed.astype(np.int64)) if len(self.layers) else self

    def select_groups(self, kept: NDArray[np.int64], extra_costs: Mapping[str, Cost]) -> "CostOracle":
        """Return this oracle for cuts that keep no channel outside the `kept` groups; counts are those of these groups.

        `extra_costs` are those of `kept`.
        """
        return replace(self, slope=self.slope[:, kept], extra_costs=extra_costs)

    def add_cost(self, name: str, cost: Cost, dense: int) -> "CostOracle":
        """Return this oracle with one more cost, which is `dense` for the dense network."""
        return replace(self, dense={**self.dense, name: dense}, extra_costs={**self.extra_costs, name: cost})

    def compute_ratio(self, name: str, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Compute cost `name` as a ratio to the dense network's: (..., groups) -> (...), in (0, 1]."""
        return np.asarray(self.compute_cost(name, counts) / self.dense[name])

    def compute_cost_per_channel(self, name: str, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Compute the part of cost `name` that one channel of each group accounts for in the dense network:
        (groups,) -> (groups,).
        """
        one_less = sizes[None, :] - np.eye(len(sizes), dtype=np.int64)
        return np.asarray(self.compute_cost(name, sizes) - self.compute_cost(name, one_less), dtype=np.float64)


def build_cost_oracle(
    model: nn.Module, maps: IndexMaps, example: Tensor, products: Mapping[str, int] = MappingProxyType({})
) -> CostOracle:
    """Build the cost oracle of `model` from its tensors and one forward pass of `example`, (1, ...).

    `products`: the multiply-accumulates per channel of products of activations, by their names in `maps`.
    """
    groups = len(maps.groups)
    owner = np.repeat(np.arange(groups), maps.sizes)
    base, slope = [1], [np.zeros(groups, dtype=np.int64)]  # width 0 is the constant one

    def add_width(fixed: int, per_group: NDArray[np.int64]) -> int:
        base.append(fixed)
        slope.append(per_group)
        return len(base) - 1

    by_source = []
    for source in maps.sources:
        touched = source[source != ALWAYS]
        per_channel = np.bincount(owner[touched], minlength=groups) // maps.sizes if groups else slope[0]
        by_source.append(add_width(int((source == ALWAYS).sum()), per_channel.astype(np.int64)))

    positions = count_layer_positions(model, example)
    first, second, params, macs = [], [], [], []
    for name, parameter in model.named_parameters():
        touched_dims = dict(maps.slices.get(name, ()))
        if len(touched_dims) > 2:
            raise ValueError(f"{name}: groups index {len(touched_dims)} dimensions, expected at most two")
        shape = parameter.shape
        # the first two dimensions, unless groups index others
        dims = sorted(sorted(range(parameter.ndim), key=lambda dim: (dim not in touched_dims, dim))[:2])
        widths = [
            by_source[touched_dims[dim]] if dim in touched_dims else add_width(shape[dim], slope[0]) for dim in dims
        ]
        widths += [0] * (2 - len(widths))
        rest = int(np.prod([size for dim, size in enumerate(shape) if dim not in dims], dtype=np.int64))
        first.append(widths[0])
        second.append(widths[1])
        params.append(rest)
        macs.append(rest * positions.get(name, 0))

    for name, product in products.items():
        if name in maps.slices:
            first.append(by_source[maps.slices[name][0][1]])
            second.append(0)
            params.append(0)
            macs.append(product)

    def to_array(values: list[int]) -> NDArray[np.int64]:
        return np.asarray(values, dtype=np.int64)

    bare = CostOracle(
        to_array(base), np.stack(slope), to_array(first), to_array(second), to_array(params), to_array(macs), 0, {}
    )
    dense = {name: int(bare.compute_cost(name, maps.sizes)) for name in COSTS}
    fixed = max(0, count_macs(model, example) - dense["macs"])
    dense["macs"] += fixed
    return CostOracle(bare.base, bare.slope, bare.first, bare.second, bare.params, bare.macs, fixed, dense)


def count_layer_positions(model: nn.Module, example: Tensor) -> dict[str, int]:
    """Count, per weight name, the positions at which one input applies each convolution or linear layer."""
    positions: dict[str, int] = {}
    names = {id(parameter): name for name, parameter in model.named_parameters()}

    def count_positions(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        weight = names.get(id(module.weight))
        if weight is None:
            return
        if isinstance(module, nn.Linear):
            applied = output.numel() // output.shape[-1]
        else:  # a transposed convolution applies its kernel once per input pixel, the others once per output pixel
            pixels = inputs[0] if isinstance(module, nn.modules.conv._ConvTransposeNd) else output
            applied = pixels[:, 0].numel()
        positions[weight] = positions.get(weight, 0) + applied // len(example)

    hooks = [module.register_forward_hook(count_positions) for module in model.modules() if isinstance(module, LAYERS)]
    try:
        with torch.inference_mode():
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return positions


def count_parameters(model: nn.Module) -> int:
    """Count the elements of all parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, example: Tensor) -> int:
    """Count the multiply-accumulates of one forward pass of `example`; torch counts them per operation."""
    skip_dynamo(_FlopCounterMode.__torch_dispatch__)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:  # the counter would follow the gradient of a parameter that is a module's input
        parameter.requires_grad_(False)
    try:
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            model(example)
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
    return int(counter.get_total_flops()) // 2
