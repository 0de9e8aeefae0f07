"""Pareto fronts of evaluations: selection, the knee, and the hypervolume."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from blendsearch.runs.origin import DENSE, list_baseline_kinds
from blendsearch.runs.records import Evaluation, Promotion

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CostFunction = Callable[[Evaluation], tuple[float, ...]]
"""From a row to each cost whose budget spans a range, as shares of the dense cost; empty at one budget."""


def find_non_dominated(objectives: "NDArray[np.float64]") -> "NDArray[np.bool_]":
    """Mark the rows of (n, m) minimised objectives that no other row dominates; of equal rows the first."""
    import numpy as np

    if not len(objectives):
        return np.zeros(0, dtype=np.bool_)
    from moocore import is_nondominated

    return np.asarray(is_nondominated(objectives, maximise=False, keep_weakly=False), dtype=np.bool_)


def mark_non_dominated(points: Sequence[tuple[float, ...]]) -> list[bool]:
    """Mark the points that no other one dominates, all minimised; of equal ones the first. Two need no numpy."""
    if len(points) and len(points[0]) != 2:
        import numpy as np

        return [bool(mark) for mark in find_non_dominated(np.array(points, dtype=np.float64))]
    marks, least = [False] * len(points), None
    for place in sorted(range(len(points)), key=lambda place: (*points[place], place)):
        if least is None or points[place][1] < least:
            marks[place], least = True, points[place][1]
    return marks


def select_evaluated(rows: Sequence[Evaluation]) -> list[Evaluation]:
    """Select the pruned networks with numbers: neither the dense network nor failures."""
    return [row for row in rows if not row.failure and row.origin != DENSE]


def select_highest_fidelity(rows: Sequence[Evaluation], promotions: Sequence[Promotion]) -> list[Evaluation]:
    """Select the pruned networks evaluated at the highest fidelity: after a promotion, the promoted ones alone."""
    valid = select_evaluated(rows)
    if not promotions:
        return valid
    again = {item.digest for item in promotions}
    return apply_promotions([row for row in valid if row.digest in again], promotions)


def find_dense_network(rows: Sequence[Evaluation], promotions: Sequence[Promotion]) -> Evaluation | None:
    """Find the dense network at the fidelity of `select_highest_fidelity`; None where its evaluation failed."""
    found = [row for row in rows if row.origin == DENSE and not row.failure]
    return next(iter(apply_promotions(found, promotions)), None)


def apply_promotions(rows: Sequence[Evaluation], promotions: Sequence[Promotion]) -> list[Evaluation]:
    """Replace the numbers of promoted rows by those of the higher fidelity."""
    again = {item.digest: item for item in promotions}
    return [
        row
        if (found := again.get(row.digest)) is None
        else row._replace(fidelity=found.fidelity, loss=found.loss, error=found.error)
        for row in rows
    ]


def select_front(rows: Sequence[Evaluation], costs: CostFunction) -> list[Evaluation]:
    """Select the non-dominated rows, the cheapest first.

    Objectives are loss and `costs` where a budget spans a range, and loss and error where `costs` gives no cost.
    """
    evaluated = [row for row in rows if row.loss is not None and row.error is not None]
    if not evaluated:
        return []
    spent = {row.id: costs(row) for row in evaluated}
    points = [(row.loss or 0.0, *(spent[row.id] or (row.error or 0.0,))) for row in evaluated]
    chosen = [row for row, on in zip(evaluated, mark_non_dominated(points), strict=True) if on]
    return sorted(chosen, key=lambda row: (*spent[row.id], row.loss, row.macs, row.id))


def select_best_baselines(rows: Sequence[Evaluation]) -> list[Evaluation]:
    """Select the best baseline of every kind at each seeded budget, by validation loss."""
    best: dict[str, Evaluation] = {}
    for row in rows:
        for kind in list_baseline_kinds(row) if row.loss is not None else ():
            if kind not in best or (row.loss, row.id) < (best[kind].loss, best[kind].id):
                best[kind] = row
    unique = {row.id: row for row in best.values()}
    return sorted(unique.values(), key=lambda row: (row.macs, row.id))


def find_knee(rows: Sequence[Evaluation], costs: CostFunction) -> Evaluation:
    """Find the row of a front with the least sum of loss and costs, each scaled to [0, 1] over the front.

    With two objectives it is the row farthest below the line between the front's ends. At one budget the cost is MACs.
    """
    points = [(*map(float, costs(row) or (row.macs,)), row.loss or 0.0) for row in rows]
    columns = list(zip(*points, strict=True))
    low, high = [min(column) for column in columns], [max(column) for column in columns]
    spans = [(most - least) or 1.0 for least, most in zip(low, high, strict=True)]
    sums = [
        sum((value - least) / span for value, least, span in zip(point, low, spans, strict=True)) for point in points
    ]
    return rows[sums.index(min(sums))]


class ParetoArchive:
    """The non-dominated points of those added, all minimised; of equal points, the one with the least key."""

    def __init__(self) -> None:
        self._points: list[tuple[float, ...]] = []
        self._is_pruned = True

    def add(self, key: int, point: Sequence[float]) -> None:
        """Add a point of (m,) objectives."""
        self._points.append((key, *point))
        self._is_pruned = False

    def compute_front(self) -> "NDArray[np.float64]":
        """Compute the non-dominated points, (n, m), by key."""
        import numpy as np

        if not self._points:
            return np.zeros((0, 0))
        table = np.array(sorted(self._points), dtype=np.float64)
        if not self._is_pruned:
            table = table[find_non_dominated(table[:, 1:])]
            self._points, self._is_pruned = [tuple(row) for row in table.tolist()], True
        return table[:, 1:]


def compute_hypervolume(points: "NDArray[np.float64]") -> float:
    """Compute the volume in [0, 1] that `points` of error and costs, (n, 1 + costs), dominate.

    The reference point is all ones: every answer wrong at the dense cost. At one budget only the error counts.
    """
    import numpy as np
    from moocore import hypervolume as volume

    if not len(points):
        return 0.0
    if points.shape[1] == 1:
        return float(1 - points.min())
    return float(volume(points, ref=np.ones(points.shape[1])))
