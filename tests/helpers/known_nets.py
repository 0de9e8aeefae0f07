"""A trained network with a known useless group, and configs that search it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from blendsearch.data.datasets import DataSpec
from blendsearch.data.splits import load_splits
from blendsearch.training.schedule import Schedule
from blendsearch.training.trainer import train
from blendsearch.zoo.digits_net import digits_net


def silent_branch(path: Path) -> None:
    """Write a digits net whose residual branch outputs zero: its inner group is provably useless."""
    torch.manual_seed(0)
    module = digits_net(width=8)
    splits, device = load_splits(DataSpec(dataset="digits", val_size=0.3), 3), torch.device("cpu")
    train(module, splits, Schedule(15, 0.1, 64), device, np.random.default_rng(0))
    with torch.no_grad():
        module.outer[1].weight.zero_()
        module.outer[1].bias.zero_()
    for parameter in module.outer.parameters():
        parameter.requires_grad_(False)
    train(module, splits, Schedule(8, 0.05, 64), device, np.random.default_rng(1))
    save_file(module.state_dict(), path)


def quick_on(quick: dict[str, Any], weights: Path, **changes: Any) -> dict[str, Any]:
    """Make the config of a quick search with these weights, which measures sensitivity by the loss."""
    model = {"factory": "digits_net", "arguments": {"width": 8}, "weights": str(weights)}
    allocating = {"ratios": [0.75, 0.5, 0.25], "criterion": "l1", "fidelity": "raw", "measure": "loss"}
    return quick | {"model": model, "allocating": allocating} | changes
