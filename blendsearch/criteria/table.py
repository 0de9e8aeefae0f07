"""Score table: all criteria x all groups, computed once per run. NumPy only: later layers use no tensors."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blendsearch.errors import format_error


@dataclass(frozen=True)
class ExcludedCriterion:
    """A criterion that cannot be used for one group, and why."""

    criterion: str
    group: str
    reason: str


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Raw scores, high = keep.

    Attributes
    ----------
    criteria: names, in the order of rows.
    groups: names, in the order of `scores`.
    scores: one array per group, (criteria, C); rows of left-out criteria are all NaN, other rows are finite.
    left_out: those rows, and why.
    """

    criteria: tuple[str, ...]
    groups: tuple[str, ...]
    scores: tuple[NDArray[np.float64], ...]
    left_out: tuple[ExcludedCriterion, ...]

    def find_usable(self, group: int) -> NDArray[np.int64]:
        """Return the row numbers of the criteria that can be used for `group`, ascending."""
        return np.flatnonzero(np.isfinite(self.scores[group]).all(axis=1))


def build_score_table(
    criteria: tuple[str, ...], rows: dict[str, dict[str, object]], sizes: dict[str, int]
) -> ScoreTable:
    """Build the table from raw results, leaving out those that cannot rank a group's channels.

    `rows[criterion][group]` is an array-like of shape (C,), None (does not apply), or an exception. A result of the
    wrong length, with values that are not finite, or with the same value for every channel is left out for that group,
    with the reason.
    """
    left_out: list[ExcludedCriterion] = []
    scores = []
    for group, channels in sizes.items():
        table = np.full((len(criteria), channels), np.nan)
        for number, name in enumerate(criteria):
            row, reason = _parse_row(rows[name].get(group), channels)
            if reason:
                left_out.append(ExcludedCriterion(name, group, reason))
            else:
                table[number] = row
        scores.append(table)
    return ScoreTable(criteria, tuple(sizes), tuple(scores), tuple(left_out))


def _parse_row(result: object, channels: int) -> tuple[NDArray[np.float64], str]:
    nothing = np.empty(0)
    if result is None:
        return nothing, "does not apply"
    if isinstance(result, Exception):
        return nothing, f"failed with {format_error(result)}"
    row = np.asarray(result, dtype=np.float64)
    if row.shape != (channels,):
        return nothing, f"returned scores of shape {row.shape}, expected ({channels},)"
    if not np.isfinite(row).all():
        return nothing, f"returned {int((~np.isfinite(row)).sum())} scores that are not finite"
    if channels > 1 and np.ptp(row) == 0:
        return nothing, "returned the same score for every channel"
    return row, ""
