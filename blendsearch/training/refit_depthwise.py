"""Least-squares fit of a depthwise and a pointwise convolution, as a pair, to the outputs of one convolution.

With x (N, in, taps) the inputs of the layer, its output is the sum over i and t of x[:, i, t] W[:, i, t]. The pair has
pointwise[:, i] depthwise[i, t] in place of W[:, i, t]. This is linear in each of the two while the other is fixed, so
both are fitted in turn by least squares. The ridge pulls each towards its previous value, so no step ends further from
the target. Only second moments of x and the outputs are needed.
"""

import torch
from torch import Tensor

from blendsearch.training.refit_solver import solve_ridge

SWEEPS = 2
"""Number of fits of the depthwise weights, each between two fits of the pointwise ones."""


def fit_pair(
    gram: Tensor, cross_moments: Tensor, depthwise: Tensor, pointwise: Tensor, ridge: float, sweeps: int = SWEEPS
) -> tuple[Tensor, Tensor]:
    """Fit the pair (depthwise (in, taps), pointwise (out, in)) to the target outputs, starting from these values.

    `gram` (in * taps, in * taps) and `cross_moments` (in * taps, out) are the mean products of inputs with inputs and
    with target outputs. `ridge` is a share of the mean diagonal.
    """
    into, taps = depthwise.shape
    gram = gram.reshape(into, taps, into, taps)
    cross_moments = cross_moments.reshape(into, taps, -1)
    pointwise = _fit_pointwise(gram, cross_moments, depthwise, pointwise, ridge)
    for _ in range(sweeps):
        depthwise = _fit_depthwise(gram, cross_moments, depthwise, pointwise, ridge)
        pointwise = _fit_pointwise(gram, cross_moments, depthwise, pointwise, ridge)
    return depthwise, pointwise


def _fit_pointwise(gram: Tensor, cross_moments: Tensor, depthwise: Tensor, pointwise: Tensor, ridge: float) -> Tensor:
    half = torch.einsum("iajb,jb->iaj", gram, depthwise)
    moments = torch.einsum("ia,iaj->ij", depthwise, half)
    residuals = torch.einsum("ia,iao->io", depthwise, cross_moments) - moments @ pointwise.T
    return pointwise + solve_ridge(moments, residuals, ridge).T


def _fit_depthwise(gram: Tensor, cross_moments: Tensor, depthwise: Tensor, pointwise: Tensor, ridge: float) -> Tensor:
    into, taps = depthwise.shape
    moments = ((pointwise.T @ pointwise)[:, None, :, None] * gram).reshape(into * taps, into * taps)
    targets = torch.einsum("oi,iao->ia", pointwise, cross_moments).reshape(-1, 1)
    residuals = targets - moments @ depthwise.reshape(-1, 1)
    return depthwise + solve_ridge(moments, residuals, ridge).reshape(into, taps)
