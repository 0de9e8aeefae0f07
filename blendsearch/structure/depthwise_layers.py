"""Which layers of a network may be decomposed, and what cuts cost then."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from blendsearch.errors import ConfigError
from blendsearch.structure.cost import CostOracle, count_macs
from blendsearch.structure.eval_mode import use_eval_mode
from blendsearch.structure.groups import IndexMaps
from blendsearch.structure.surgery import narrow
from blendsearch.structure.trace import Structure


def add_decomposable_layers(model: nn.Module, structure: Structure, input_shape: tuple[int, int, int]) -> Structure:
    """`structure`, whose cuts may also decompose layers; `model` is on the CPU.

    Those are two-dimensional convolutions over more than one pixel, not grouped, used as a module that stands in one
    place and has its weight to itself, in a network that still runs, and costs what the oracle says, without them.
    Raises ConfigError where there is none.
    """
    names = _find_candidates(model, structure.oracle)
    image = torch.zeros(1, *input_shape)
    with use_eval_mode(model):
        if not _is_decomposable(model, structure, names, image):  # find the culprits, each alone
            names = [name for name in names if _is_decomposable(model, structure, [name], image)]
        together = bool(names) and _is_decomposable(model, structure, names, image)
    if not together:
        raise ConfigError(
            f"transform depthwise: no convolution of {type(model).__name__} can be decomposed: expected ungrouped ones "
            "over more than one pixel; leave transform out"
        )
    return _add_layers(model, structure, names)


def _find_candidates(model: nn.Module, oracle: CostOracle) -> list[str]:
    held: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        held[id(parameter)] = held.get(id(parameter), 0) + 1
    terms = {name: number for number, (name, _) in enumerate(model.named_parameters())}
    return [
        name
        for name, layer in model.named_modules()
        if type(layer) is nn.Conv2d  # a subclass may do anything with its weight
        and layer.groups == 1
        and layer.weight[0, 0].numel() > 1
        and held.get(id(layer.weight), 0) == 1
        and oracle.macs[terms[f"{name}.weight"]] > 0
    ]


def _add_layers(model: nn.Module, structure: Structure, names: Sequence[str]) -> Structure:
    terms = {name: number for number, (name, _) in enumerate(model.named_parameters())}
    layers = np.array([terms[f"{name}.weight"] for name in names], dtype=np.int64)
    oracle = replace(structure.oracle, layers=layers, undecomposed=np.ones(len(layers), dtype=np.int64))
    maps = structure.maps
    asked = IndexMaps(maps.groups, maps.offsets, maps.sources, maps.slices, maps.shapes, tuple(names))
    return replace(structure, maps=asked, oracle=oracle)


def _is_decomposable(model: nn.Module, structure: Structure, names: Sequence[str], image: torch.Tensor) -> bool:
    """Whether the network without these layers still runs, and costs what the oracle says."""
    asked = _add_layers(model, structure, names)
    cut = asked.maps.make_unpruned_cut()
    cut[asked.maps.offsets[-1] :] = False
    try:
        network = narrow(model, asked.maps, cut)
        counted = count_macs(network, image)
    except Exception:  # a network that looks at its layers' attributes may fail in any way
        return False
    counts = asked.maps.count_kept(cut)
    params = sum(parameter.numel() for parameter in network.parameters())
    return counted == int(asked.oracle.compute_cost("macs", counts)) and params == int(
        asked.oracle.compute_cost("params", counts)
    )
