"""Layers of a network that may be decomposed, and the costs of cuts that decompose them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from blendsearch.errors import ConfigError
from blendsearch.structure.cost import CostOracle, count_macs, count_parameters
from blendsearch.structure.eval_mode import use_eval_mode
from blendsearch.structure.surgery import narrow
from blendsearch.structure.trace import Structure


def add_decomposable_layers(model: nn.Module, structure: Structure, input_shape: tuple[int, int, int]) -> Structure:
    """Extend `structure` by cuts that also decompose layers; `model` is on the CPU.

    Candidates are ungrouped two-dimensional convolutions over more than one pixel that are used once and do not share
    their weight. The network must still run without them and cost what the oracle predicts. Raises ConfigError if there
    is none.
    """
    names = _find_candidates(model, structure.oracle)
    image = torch.zeros(1, *input_shape)
    with use_eval_mode(model):
        if not _is_decomposable(model, structure, names, image):  # test each layer alone
            names = [name for name in names if _is_decomposable(model, structure, [name], image)]
        together = bool(names) and _is_decomposable(model, structure, names, image)
    if not together:
        raise ConfigError(
            f"transform depthwise: no convolution of {type(model).__name__} can be decomposed: expected ungrouped ones "
            "over more than one pixel; leave out transform"
        )
    return _add_layers(model, structure, names)


def _find_candidates(model: nn.Module, oracle: CostOracle) -> list[str]:
    uses: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    terms = {name: number for number, (name, _) in enumerate(model.named_parameters())}
    return [
        name
        for name, layer in model.named_modules()
        if type(layer) is nn.Conv2d  # a subclass may do anything with its weight
        and layer.groups == 1
        and layer.weight[0, 0].numel() > 1
        and uses.get(id(layer.weight), 0) == 1
        and oracle.macs[terms[f"{name}.weight"]] > 0
    ]


def _add_layers(model: nn.Module, structure: Structure, names: Sequence[str]) -> Structure:
    terms = {name: number for number, (name, _) in enumerate(model.named_parameters())}
    layers = np.array([terms[f"{name}.weight"] for name in names], dtype=np.int64)
    oracle = replace(structure.oracle, layers=layers, undecomposed=np.ones(len(layers), dtype=np.int64))
    maps = structure.maps
    return replace(structure, maps=replace(maps, layers=tuple(names)), oracle=oracle)


def _is_decomposable(model: nn.Module, structure: Structure, names: Sequence[str], image: torch.Tensor) -> bool:
    """Return True if the network with these layers decomposed still runs and costs what the oracle predicts."""
    extended = _add_layers(model, structure, names)
    cut = extended.maps.make_unpruned_cut()
    cut[extended.maps.offsets[-1] :] = False
    try:
        network = narrow(model, extended.maps, cut)
        macs = count_macs(network, image)
    except Exception:  # a network that reads its layers' attributes may raise anything
        return False
    counts = extended.maps.count_kept(cut)
    params = count_parameters(network)
    return macs == int(extended.oracle.compute_cost("macs", counts)) and params == int(
        extended.oracle.compute_cost("params", counts)
    )
