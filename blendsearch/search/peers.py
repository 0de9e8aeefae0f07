"""Torch-Pruning's own global and local pruner, as a method: two cuts at the budget, and nothing to search."""

from blendsearch.search.setting import Setting
from blendsearch.structure.groups import Cut
from blendsearch.structure.peer import torch_pruning_cut


def peers(setting: Setting) -> list[tuple[str, Cut]]:
    """The global pruner's cut and the local one's. The budget must be one, not a span."""
    height, width, channels = setting.splits.train.shape
    shape, budget = (channels, height, width), setting.decoder.budget_at(0.0)
    return [
        (name, torch_pruning_cut(setting.model, setting.structure, shape, budget, everywhere))
        for name, everywhere in (("Torch-Pruning global", True), ("Torch-Pruning local", False))
    ]
