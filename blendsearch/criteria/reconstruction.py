"""Criteria from the input of the next layer: channels that contribute little to its output, or can be compensated."""

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
    """Relative squared error of sampled next-layer outputs when greedy removal reaches this channel.

    The set of removed channels T starts empty. Each step adds the channel that makes the sum over samples of (sum over
    c in T of x_c)^2 smallest, x_c being the channel's contribution to the sample. A channel's score is the largest
    error up to the step that removes it, as a share of the sum over all channels of x_c^2. Shares are added up over
    readers, so that one removal order serves all of them.
    """
    gram: Tensor | None = None
    for reading in view.get_activation_stats():
        if "contributions" not in vars(reading):  # parameter-free shortcuts and transposed layers are not sampled
            continue
        x = reading.contributions.double()
        products = x.T @ x
        share = products / products.trace().clamp_min(torch.finfo(torch.float64).tiny)
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
    """Compute the error at which greedy removal takes each channel: (C, C) Gram matrix of contributions -> (C,).

    The error of removing a set is the sum of the Gram matrix over it. Where contributions cancel, the largest error so
    far counts, so errors never fall along the removal.
    """
    channels = len(gram)
    scores = np.zeros(channels)
    diagonal = np.diag(gram).copy()
    with_removed = np.zeros(channels)  # sum over removed d of gram[c, d]
    removed = np.zeros(channels, dtype=np.bool_)
    error = largest = 0.0
    for _ in range(channels):
        added = np.where(removed, np.inf, 2 * with_removed + diagonal)
        channel = int(np.argmin(added))
        error += float(added[channel])
        largest = max(largest, error)
        scores[channel] = largest
        removed[channel] = True
        with_removed += gram[:, channel]
    return scores
