"""Pruning rates from thresholds on the pruning error: the arithmetic of method ``derived``."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from blendsearch.blend.allocation import Counts, Widths

Vector = NDArray[np.float64]


def compute_thresholds(losses: Vector, inverses: Vector, initial_loss: float, margin: float) -> Vector:
    """Compute the largest pruning error allowed for each group, (groups,).

    It is the mean over batches of the growth that the loss has left, initial loss x (1 + margin) - loss and not below
    0, times the mean of 1/|gradient|. `losses` is (n,), `inverses` (n, groups). To first order, a change of weights
    changes the loss by gradient times change.
    """
    room = np.maximum(initial_loss * (1 + margin) - losses, 0.0)[:, None]
    audible = np.isfinite(inverses)
    total = np.where(audible, room * np.where(audible, inverses, 0.0), 0.0).sum(axis=0)
    # a batch without gradients of a group is ignored; a group without gradients in any batch has no threshold
    unheard = ~audible.any(axis=0) & (room > 0).any()
    return np.asarray(np.where(unheard, np.inf, total / np.maximum(audible.sum(axis=0), 1)))


def clip_to_trust_region(limits: Vector, bound: float) -> Vector:
    """Scale thresholds into the ball of radius `bound`; infinite ones, of groups without gradients, stay infinite."""
    finite = np.where(np.isfinite(limits), limits, 0.0)
    length = float(np.linalg.norm(finite))
    return np.where(np.isfinite(limits), finite * min(1.0, bound / length) if length > 0 else 0.0, np.inf)


def select_widths(
    filters: Sequence[Vector], weights: Vector, allowed: Widths, limits: Vector, ladder: Sequence[float]
) -> Counts:
    """Select each group's kept channels, (groups,), at the largest rate of `ladder` whose error is within its limit.

    `filters` holds the summed absolute weights of each group's channels, the kept ones only; `weights`, (groups,), the
    number of weights. The error of a rate is the summed absolute value of removed weights over that number.
    """
    counts = np.array([len(values) for values in filters], dtype=np.int64)
    found = counts.copy()
    for rate in sorted(ladder):
        wanted = _apply_rate(counts, allowed, rate)
        errors = compute_pruning_errors(filters, weights, wanted)
        found = np.where(errors <= limits, wanted, found)
    return np.asarray(found)


def compute_pruning_errors(filters: Sequence[Vector], weights: Vector, kept: Counts) -> Vector:
    """Compute the error of keeping the `kept` largest channels of each group, (groups,)."""
    gone = [float(np.sort(values)[: len(values) - count].sum()) for values, count in zip(filters, kept, strict=True)]
    return np.array(gone) / weights


def compute_largest_errors(
    filters: Sequence[Vector], weights: Vector, allowed: Widths, ladder: Sequence[float]
) -> Vector:
    """Compute the errors of the largest rate everywhere, (groups,)."""
    counts = np.array([len(values) for values in filters], dtype=np.int64)
    return compute_pruning_errors(filters, weights, _apply_rate(counts, allowed, max(ladder)))


def interpolate_widths(counts: Sequence[Counts], level: float) -> Vector:
    """Return the widths after -`level` steps of a derivation through `counts`, the first of them unpruned; (groups,).

    Between steps, widths are interpolated linearly; each step after the last removes a tenth of each group.
    """
    step, last = max(0.0, -level), len(counts) - 1
    if step >= last:
        return np.asarray(counts[-1] * 0.9 ** (step - last))
    before = int(step)
    return np.asarray(counts[before] + (step - before) * (counts[before + 1] - counts[before]))


def _apply_rate(counts: Counts, allowed: Widths, rate: float) -> Counts:
    """Return the smallest allowed widths that keep at least 1 - `rate` of `counts` channels."""
    stay = counts - np.floor(rate * counts + 1e-9).astype(np.int64)
    steps = -(-stay // allowed.step) * allowed.step
    return np.asarray(np.minimum(np.maximum(steps, allowed.low), counts))
