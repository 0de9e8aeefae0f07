"""Ridge regression from second moments, in one precision and without a synchronisation with the device.

A change of the weights is kept, output by output, only if it is finite and reduces the error on the fitted rows. So a
singular matrix, an overflow or a NaN leaves weights as they were.
"""

import torch
from torch import Tensor

GRAM_BLOCK = 512
"""Columns of a block of a Gram matrix. Blocks below the diagonal are copied, not computed."""


def compute_gram(rows: Tensor) -> Tensor:
    """Return the mean products of the columns of `rows` (n, inputs) with each other: (inputs, inputs)."""
    inputs = rows.shape[1]
    gram = rows.new_empty(inputs, inputs)
    for start in range(0, inputs, GRAM_BLOCK):
        stop = start + GRAM_BLOCK
        gram[start:stop, start:] = rows[:, start:stop].T @ rows[:, start:]
        gram[stop:, start:stop] = gram[start:stop, stop:].T
    return gram.div_(len(rows))


def solve_ridge(gram: Tensor, cross_moments: Tensor, ridge: float) -> Tensor:
    """Return the change of weights (inputs, outputs) whose residuals have mean products `cross_moments` with inputs of
    second moments `gram`.

    `ridge` is a share of the mean diagonal. The change is zero for outputs whose error it would not reduce.
    """
    ridged = gram.clone()
    ridged.diagonal().add_(ridge * gram.diagonal().mean() + torch.finfo(torch.float32).tiny)
    factor, _ = torch.linalg.cholesky_ex(ridged)
    change = torch.cholesky_solve(cross_moments, factor)
    change = change + torch.cholesky_solve(cross_moments - ridged @ change, factor)  # the rounding errors of float32
    gain = (change * (2 * cross_moments - gram @ change)).sum(dim=0)
    return torch.where(torch.isfinite(gain) & (gain >= 0), change, torch.zeros_like(change))
