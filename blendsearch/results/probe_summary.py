"""The result of a probe: accuracy after a short training at each compression, and what follows from it."""

import math
from dataclasses import dataclass

from blendsearch.results.costs import make_cost_reader
from blendsearch.results.formatting import COST_NAMES, format_share
from blendsearch.results.record import Record
from blendsearch.results.summary import get_accuracy_name
from blendsearch.runs.compression import group_by_factor
from blendsearch.runs.origin import Origin
from blendsearch.runs.pareto import find_dense_network
from blendsearch.runs.records import Evaluation
from blendsearch.runs.run import Run

TOLERANCE = 0.01
"""Accuracy that a recovered network may lack of the dense one's."""


@dataclass(frozen=True, kw_only=True)
class ProbedNetwork(Record):
    """A rule's network at one compression.

    Attributes
    ----------
    factor: the dense cost over the budgeted one; reached: over the network's own.
    val_before, val_accuracy: validation accuracy before and after the training; None where there is none.
    test_accuracy: accuracy on test images after the training.
    """

    factor: float
    reached: float
    id: int
    rule: str
    val_before: float | None
    val_accuracy: float
    test_accuracy: float


@dataclass(frozen=True, kw_only=True)
class ProbeSummary(Record):
    """The result of a probe.

    Attributes
    ----------
    cost: the budgeted cost.
    metric: the name of what is called accuracy here: ``accuracy``, or the metric of the task.
    dense_accuracy: validation accuracy of the dense network.
    tolerance: lack of accuracy up to which a network counts as recovered: `TOLERANCE`, or two standard errors.
    recovers_up_to: the largest factor up to which every trained rule recovers; None if none does.
    take: the id of the network to take at that factor.
    """

    run: str
    cost: str
    metric: str
    dense_accuracy: float
    tolerance: float
    recovers_up_to: float | None
    take: int | None
    networks: tuple[ProbedNetwork, ...]
    sentence: str


def summarize_probe(run: Run, factors: tuple[float, ...], images: int) -> ProbeSummary:
    """Summarize the probe in `run`, whose validation split has so many `images`."""
    (cost,) = run.config.budget.get_spans()
    with run.open_store(read_only=True) as store:
        rows, finals = store.read_evaluations(), {item.digest: item for item in store.read_finals()}
        dense = find_dense_network(rows, store.read_promotions())
    read_costs, whole = make_cost_reader(run), run.structure["dense"]

    def compute_ratio(row: Evaluation) -> float:
        known = {"macs": row.macs / whole["macs"], "params": row.params / whole["params"]}
        return known[cost] if cost in known else getattr(read_costs(row, {}), f"{cost}_ratio") or 1.0

    networks = tuple(
        ProbedNetwork(
            factor=factor,
            reached=1 / compute_ratio(row),
            id=row.id,
            rule=Origin.parse(row.origin).label,
            val_before=None if row.error is None else 1 - row.error,
            val_accuracy=1 - finals[row.digest].error,
            test_accuracy=1 - finals[row.digest].test_error,
        )
        for factor, group in group_by_factor(rows, factors, compute_ratio).items()
        for row in group
        if row.digest in finals
    )
    accuracy = math.nan if dense is None or dense.error is None else 1 - dense.error
    tolerance = max(TOLERANCE, 2 * math.sqrt(accuracy * (1 - accuracy) / images))
    limit = find_recovery_limit(networks, accuracy - tolerance)
    chosen = None
    if limit is not None:
        chosen = max(
            (item for item in networks if item.factor == limit), key=lambda item: (item.val_accuracy, -item.id)
        )
    return ProbeSummary(
        run=run.name,
        cost=cost,
        metric=get_accuracy_name(run),
        dense_accuracy=accuracy,
        tolerance=tolerance,
        recovers_up_to=limit,
        take=None if chosen is None else chosen.id,
        networks=networks,
        sentence=_make_sentence(networks, chosen, cost, accuracy, tolerance),
    )


def find_recovery_limit(networks: tuple[ProbedNetwork, ...], least: float) -> float | None:
    """Return the largest factor up to which every trained network has the accuracy `least`; None if there is none."""
    limit = None
    for factor in sorted({item.factor for item in networks}):
        if min(item.val_accuracy for item in networks if item.factor == factor) < least:
            break
        limit = factor
    return limit


def _make_sentence(
    networks: tuple[ProbedNetwork, ...], chosen: ProbedNetwork | None, cost: str, accuracy: float, tolerance: float
) -> str:
    if not networks:
        return "no network could be trained"
    factors = sorted({item.factor for item in networks})
    if chosen is None:
        first = max((item for item in networks if item.factor == factors[0]), key=lambda item: item.val_accuracy)
        return (
            f"Recovery fails already at {factors[0]:g}x: the best rule ({first.rule}) ends at "
            f"{format_share(first.val_accuracy)} of {format_share(accuracy)} in this training. Search there, or train "
            "longer."
        )
    within = f"within {100 * tolerance:.1f} points of the dense network's {format_share(accuracy)}"
    text = (
        f"Up to {chosen.factor:g}x any rule recovers ({within}): take network {chosen.id} now ({chosen.rule}, "
        f"{chosen.reached:.1f}x fewer {COST_NAMES[cost]}, {format_share(chosen.val_accuracy)})."
    )
    above = [factor for factor in factors if factor > chosen.factor]
    return text + (f" From {above[0]:g}x on the choice matters: search there." if above else "")
