"""Small splits, and refits of small networks."""

import numpy as np
import torch
from torch import Tensor, nn

from blendsearch.data.split import ArraySplit
from blendsearch.data.splits import Splits
from blendsearch.structure.groups import IndexMaps
from blendsearch.training.refit import RefitOptions, Refitter, make_refitter

CPU = torch.device("cpu")


def make_random_splits(shape: tuple[int, int, int], count: int = 48) -> Splits:
    channels, height, width = shape
    rng = np.random.default_rng(0)
    split = ArraySplit(
        rng.integers(0, 256, (count, height, width, channels), dtype=np.uint8), rng.integers(0, 3, count)
    )
    mean, std = np.full(channels, 0.5, np.float32), np.full(channels, 0.25, np.float32)
    return Splits(split, split, split, 3, mean, std, (), "")


def load_images(splits: Splits) -> Tensor:
    return next(splits.iter_batches(splits.train, batch_size=len(splits.train), device=CPU))[0]


def make_net_refitter(
    model: nn.Module, maps: IndexMaps, splits: Splits, ridge: float = 1e-2, renewed: bool = True
) -> Refitter:
    options = RefitOptions(recalibration=renewed, ridge=ridge)
    return make_refitter(model, maps, splits, images=len(splits.train), device=CPU, options=options)
