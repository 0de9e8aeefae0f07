"""The least-squares fit of a depthwise and a pointwise convolution, as a pair, to what one convolution said.

With x (N, in, taps) what the layer read, its output was sum over i and t of x[:, i, t] W[:, i, t]; the pair's is
pointwise[:, i] depthwise[i, t] in place of W[:, i, t]. That is linear in either of the two while the other stands:
least squares for the one and the other in turn, each drawn towards what it was by the ridge, so that no step ends
further from what was said. Second moments are all that is needed of x and the outputs.
"""

import torch
from torch import Tensor

SWEEPS = 2
"""How often the depthwise half is fitted, each time between two fits of the pointwise one."""


def fit_pair(
    gram: Tensor, cross_moments: Tensor, depthwise: Tensor, pointwise: Tensor, ridge: float, sweeps: int = SWEEPS
) -> tuple[Tensor, Tensor]:
    """The pair nearest to what was said, from the one given: depthwise (in, taps), pointwise (out, in).

    `gram` (in * taps, in * taps) and `across` (in * taps, out) are the mean products of what was read with itself and
    with what is to be said; all in double precision. `ridge` is a share of the mean diagonal.
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
    own = torch.einsum("ia,iaj->ij", depthwise, half)
    missing = torch.einsum("ia,iao->io", depthwise, cross_moments) - own @ pointwise.T
    return pointwise + solve_ridge(own, missing, ridge).T


def _fit_depthwise(gram: Tensor, cross_moments: Tensor, depthwise: Tensor, pointwise: Tensor, ridge: float) -> Tensor:
    into, taps = depthwise.shape
    own = ((pointwise.T @ pointwise)[:, None, :, None] * gram).reshape(into * taps, into * taps)
    wanted = torch.einsum("oi,iao->ia", pointwise, cross_moments).reshape(-1, 1)
    missing = wanted - own @ depthwise.reshape(-1, 1)
    return depthwise + solve_ridge(own, missing, ridge).reshape(into, taps)


def solve_ridge(gram: Tensor, cross_moments: Tensor, ridge: float) -> Tensor:
    """What is to be added to weights whose residuals have the mean products `across` with inputs of `gram`."""
    gram = gram.clone()
    gram.diagonal().add_(ridge * gram.diagonal().mean() + torch.finfo(torch.float32).tiny)
    return torch.cholesky_solve(cross_moments, torch.linalg.cholesky(gram))
