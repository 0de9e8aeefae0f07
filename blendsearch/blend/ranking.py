"""Ranks of scores, as ``scipy.stats.rankdata`` computes them: its import takes longer than reading a run."""

import numpy as np
from numpy.typing import NDArray


def rank_rows(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rank each row of `scores`, (rows, columns), from 1; ties get their average rank, rows with NaN are NaN."""
    rows, columns = scores.shape
    order = np.argsort(scores, axis=1, kind="stable")
    ordered = np.take_along_axis(scores, order, axis=1)
    starts = np.ones((rows, columns), dtype=np.bool_)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    ranks = np.empty((rows, columns))
    for row in range(rows):
        ties = np.flatnonzero(np.append(starts[row], True))
        ranks[row, order[row]] = np.repeat((ties[:-1] + ties[1:] + 1) / 2, np.diff(ties))
    ranks[np.isnan(scores).any(axis=1)] = np.nan
    return ranks
