"""Criteria from the singular values of a channel's filter as a matrix of input channels by kernel positions.

A 1 x 1 filter is a single column: both norms are then its L2 norm.
"""

import torch
from torch import Tensor

from blendsearch.criteria.registry import criterion
from blendsearch.criteria.view import GroupView, average_scores


@criterion(
    "spectral_norm", family="norm", source="the spectral norm of Yoshida and Miyato 2017, taken filter by filter"
)
def spectral_norm(view: GroupView) -> Tensor | None:
    """Largest singular value of the channel's filter matrix (input channels x kernel positions); mean over makers."""
    return average_scores([compute_singular_values(matrices).amax(dim=1) for matrices in view.get_filter_matrices()])


@criterion("nuclear_norm", family="norm", source="the nuclear norm of Fazel et al. 2001, taken filter by filter")
def nuclear_norm(view: GroupView) -> Tensor | None:
    """Sum of singular values of the channel's filter matrix (input channels x kernel positions); mean over makers."""
    return average_scores([compute_singular_values(matrices).sum(dim=1) for matrices in view.get_filter_matrices()])


def compute_singular_values(matrices: Tensor) -> Tensor:
    """Compute the singular values of each matrix, (C, n, m) -> (C, min(n, m)) in float64, ascending.

    Uses the smaller Gram matrix, which for a 3 x 3 kernel is 9 x 9 for any number of input channels. In float64,
    squaring loses nothing that float32 weights can represent.
    """
    tall = matrices if matrices.shape[1] >= matrices.shape[2] else matrices.mT
    if tall.shape[2] == 1:
        lengths: Tensor = torch.linalg.vector_norm(tall[..., 0].double(), dim=1, keepdim=True)
        return lengths
    values = []
    for some in torch.split(tall, 64):
        double = some.double()
        values.append(torch.linalg.eigvalsh(double.mT @ double).clamp_min(0).sqrt())
    return torch.cat(values)
