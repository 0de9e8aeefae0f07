"""Tracing of a network: from the network and an example input to its groups and costs."""

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
    """Groups of a network that can be cut, frozen groups, and the cost of any cut."""

    maps: IndexMaps
    frozen: tuple[FrozenGroup, ...]
    oracle: CostOracle


def trace_structure(model: nn.Module, input_shape: tuple[int, int, int]) -> Structure:
    """Find the verified groups of `model` for inputs of shape (channels, height, width), and its cost oracle.

    Does not change the network. Works on the CPU in float32, independent of the device of the search. Raises TraceError
    if the network does not accept such inputs, if its channels cannot be traced, or if no group can be cut.
    """
    if any(tensor.device.type != "cpu" for tensor in [*model.parameters(), *model.buffers()]):
        raise ValueError("trace the network on the CPU and move it afterwards")
    for name, module in model.named_modules():
        if is_parametrized(module):
            raise TraceError(
                f"the weights of {name or type(model).__name__} are computed in every pass (such as weight or spectral "
                "norm) and cannot be cut: call torch.nn.utils.parametrize.remove_parametrizations on it first"
            )
    with use_eval_mode(model):
        example = torch.randn(1, *input_shape, generator=torch.Generator().manual_seed(0))
        try:
            with torch.inference_mode():
                model(example)
        except Exception as error:  # user-defined networks may raise anything
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
