"""Criteria from what the next layer receives: who contributes little to its output, and can be made up for, may go."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blendsearch.criteria.registry import criterion
from blendsearch.criteria.view import GroupView, average_scores


@criterion(
    "thinet",
    family="activation",
    needs=["contributions"],
    cost="sub-sample",
    source="Luo et al. 2017, ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression",
)
def thinet(view: GroupView) -> Tensor | None:
    """Relative squared error of sampled next-layer outputs when, taken away greedily, this channel is the next to go.

    The set of removed channels T starts empty; each step adds the channel that makes the sum over samples of (sum over
    c in T of x_c)^2 smallest, x_c being the channel's contribution to the sample. A channel's score is the largest
    error up to the step that removes it, as a share of the sum over all channels of x_c^2; shares are added up over
    readers, so that one removal order serves them all.
    """
    gram: Tensor | None = None
    for reading in view.get_activation_stats():
        if "contributions" not in vars(reading):  # the parameter-free shortcuts and transposed layers are not sampled
            continue
        x = reading.contributions.double()
        own = x.T @ x
        share = own / own.trace().clamp_min(torch.finfo(torch.float64).tiny)
        gram = share if gram is None else gram + share
    return None if gram is None else torch.from_numpy(compute_greedy_errors(gram.cpu().numpy()))


@criterion(
    "wanda",
    family="activation",
    needs=["activations"],
    cost="probe",
    source="Sun et al. 2024, A Simple and Effective Pruning Approach for Large Language Models",
)
def wanda(view: GroupView) -> Tensor | None:
    """Sum of |w| over the slice that reads the channel, times the channel's root mean square; mean over readers."""
    return average_scores(
        [weight.abs().sum(dim=1) * reading.square.sqrt() for weight, reading in view.get_readers_with_stats()]
    )


def compute_greedy_errors(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """The error at which the greedy removal takes each channel: (C, C) Gram matrix of contributions -> (C,).

    The error of removing a set is the sum of the Gram matrix over it. Errors never fall along the removal: where
    contributions cancel, the largest error so far counts.
    """
    channels = len(gram)
    scores = np.zeros(channels)
    own = np.diag(gram).copy()
    with_removed = np.zeros(channels)  # sum over removed d of gram[c, d]
    gone = np.zeros(channels, dtype=np.bool_)
    error = largest = 0.0
    for _ in range(channels):
        added = np.where(gone, np.inf, 2 * with_removed + own)
        nxt = int(np.argmin(added))
        error += float(added[nxt])
        largest = max(largest, error)
        scores[nxt] = largest
        gone[nxt] = True
        with_removed += gram[:, nxt]
    return scores
