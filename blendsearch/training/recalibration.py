"""Estimation of batch-norm statistics on training images."""

import torch
from torch import nn

from blendsearch.data.splits import Splits
from blendsearch.training.device import Precision, autocast


def recalibrate(
    module: nn.Module, splits: Splits, images: int, batch_size: int, device: torch.device, precision: Precision
) -> None:
    """Estimate the mean and variance of every batch-norm anew, on the same training images for every cut.

    The training split is in random order, so its first `images` are a fair sample.
    """
    norms = [item for item in module.modules() if isinstance(item, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    try:
        module.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
        with torch.no_grad(), autocast(device, precision):
            batches = splits.iter_batches(splits.train, batch_size=batch_size, device=device, limit=images)
            for number, (x, _) in enumerate(batches, 1):
                for norm in norms:  # an unweighted average; with None, each would wait for a GPU to count the batches
                    norm.momentum = 1 / number
                module(x)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        module.eval()
