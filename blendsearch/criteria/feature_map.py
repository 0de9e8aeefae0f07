"""Linear algebra of single images' feature maps: ranks and independence."""

import math

import torch
from torch import Tensor


def compute_map_ranks(maps: Tensor) -> Tensor:
    """Compute the ranks of feature maps: (N, C, height, width) -> (N, C) in float64.

    The tolerance is that of numpy.linalg.matrix_rank: the largest singular value times the longer side times the
    precision of the activations. NaN for a map that is not finite.
    """
    ranks = []
    for image in maps:  # one image at a time bounds the memory
        if not bool(torch.isfinite(image).all()):
            ranks.append(torch.full(image.shape[:1], torch.nan, dtype=torch.float64, device=image.device))
            continue
        values = torch.linalg.svdvals(image)
        tolerance = values[:, :1] * max(image.shape[1:]) * torch.finfo(image.dtype).eps
        ranks.append((values > tolerance).sum(dim=1).double())
    return torch.stack(ranks)


def compute_nuclear_norm_changes(rows: Tensor) -> Tensor:
    r"""Compute, per image and row, by how much the nuclear norm falls when the row is zeroed: (N, C, P) -> (N, C) in
    float64.

    With :math:`A = U \Sigma V^T`, zeroing row i is a downdate of :math:`A^T A` by its outer product, and from
    :math:`\sqrt x = \frac 2 \pi \int_0^\infty x / (x + t^2) \, dt` and the matrix determinant lemma

    .. math:: ||A||_* - ||A_{-i}||_* = - \frac 1 \pi \int_0^\infty \log(1 - \phi_i(t)) \, dt, \qquad
              \phi_i(t) = \sum_j \frac{\sigma_j^2 U_{ij}^2}{\sigma_j^2 + t^2}

    The integrand is analytic around the axis, so that the trapezoidal rule in log t reaches nine digits with 75 points:
    one decomposition for all C rows. NaN for an image that is not finite.
    """
    changes = []
    for image in rows:
        matrix = image.double()
        channels, positions = matrix.shape
        if not bool(torch.isfinite(matrix).all()):
            changes.append(torch.full((channels,), torch.nan, dtype=torch.float64, device=rows.device))
            continue
        # projected[i, j] = (sigma_j U_ij)^2, from the smaller of the two Gram matrices
        if channels <= positions:
            squares, vectors = torch.linalg.eigh(matrix @ matrix.mT)
            projected = vectors.square() * squares.clamp_min(0)
        else:
            squares, vectors = torch.linalg.eigh(matrix.mT @ matrix)
            projected = (matrix @ vectors).square()
        squares = squares.clamp_min(0)
        largest = float(squares[-1].sqrt())
        if largest == 0:
            changes.append(torch.zeros(channels, dtype=torch.float64, device=rows.device))
            continue
        nodes = largest * torch.exp(_LOG_NODES.to(rows.device))
        phi = projected @ (1 / (squares[:, None] + nodes.square()))
        # a row that is independent of the others has phi(0) = 1; the clamp acts only on nodes of negligible weight
        integrand = -torch.log1p(-phi.clamp(0, 1 - 1e-15))
        changes.append(integrand @ nodes * (_LOG_STEP / math.pi))
    return torch.stack(changes)


_LOG_STEP = 0.5
_LOG_NODES = torch.arange(math.log(1e-8), math.log(1e8), _LOG_STEP, dtype=torch.float64)
