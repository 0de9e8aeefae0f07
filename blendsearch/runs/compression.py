"""Grouping of networks by how many times cheaper than the dense one they are."""

from collections.abc import Callable, Sequence

from blendsearch.runs.pareto import select_evaluated
from blendsearch.runs.records import Evaluation

ROUNDING = 1e-9


def group_by_factor(
    rows: Sequence[Evaluation], factors: Sequence[float], compute_ratio: Callable[[Evaluation], float]
) -> dict[float, list[Evaluation]]:
    """Group evaluated networks by the largest of `factors` whose budget they meet, each group by loss.

    `compute_ratio` gives a network's cost as a share of the dense one. Networks that meet no factor's budget are left
    out.
    """
    groups: dict[float, list[Evaluation]] = {factor: [] for factor in sorted(factors)}
    for row in select_evaluated(rows):
        met = [factor for factor in groups if compute_ratio(row) <= 1 / factor + ROUNDING]
        if met:
            groups[met[-1]].append(row)
    return {factor: sorted(group, key=lambda row: (row.loss, row.id)) for factor, group in groups.items() if group}
