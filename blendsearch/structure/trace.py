"""From a network and one example input to everything later floors need to know about its structure."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from blendsearch.errors import TraceError
from blendsearch.structure.cost import CostOracle, build_cost_oracle
from blendsearch.structure.dependency import find_coupled_groups
from blendsearch.structure.eval_mode import use_eval_mode
from blendsearch.structure.groups import FrozenGroup, IndexMaps, build_index_maps
from blendsearch.structure.verify import verify_groups


@dataclass(frozen=True, eq=False)
class Structure:
    """What of a network can be cut, and what any cut costs."""

    maps: IndexMaps
    frozen: tuple[FrozenGroup, ...]
    oracle: CostOracle


def trace_structure(model: nn.Module, input_shape: tuple[int, int, int]) -> Structure:
    """The verified groups of `model` for inputs of shape (channels, height, width), and its cost oracle.

    The network is left as it was. Works on the CPU in float32, whatever device the network will be searched on. Raises
    TraceError where the network does not accept such inputs, where its channels cannot be followed, or where no group
    of it can be cut.
    """
    if any(tensor.device.type != "cpu" for tensor in [*model.parameters(), *model.buffers()]):
        raise ValueError("trace the network on the CPU and move it afterwards")
    for name, module in model.named_modules():
        if is_parametrized(module):
            raise TraceError(
                f"the weights of {name or type(model).__name__} are worked out anew in every pass (weight or spectral "
                "norm, say), and cannot be cut: call torch.nn.utils.parametrize.remove_parametrizations on it before"
            )
    with use_eval_mode(model):
        example = torch.randn(1, *input_shape, generator=torch.Generator().manual_seed(0))
        try:
            with torch.inference_mode():
                model(example)
        except Exception as error:  # a person's network may fail in any way
            raise TraceError(
                f"{type(model).__name__} does not accept one image of shape {tuple(input_shape)}: "
                f"{type(error).__name__}: {str(error).splitlines()[0]}; check the data's image size and channels"
            ) from error
        groups, frozen = find_coupled_groups(model, example)
        shapes = {name: tuple(tensor.shape) for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
        maps, failed = verify_groups(model, build_index_maps(groups, shapes), example)
        frozen += failed
        if not maps.groups:
            reasons = "; ".join(f"{item.name}: {item.reason}" for item in frozen[:3]) or "it has no convolution"
            raise TraceError(f"no group of {type(model).__name__} can be cut: {reasons}")
        return Structure(maps, tuple(frozen), build_cost_oracle(model, maps, example))
