"""What a run found, as plain values: the dense network, the baselines, the front."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any

from scipy.stats import kendalltau

from blendsearch.errors import RunError
from blendsearch.results.costs import make_cost_reader, make_ranged_cost_reader
from blendsearch.runs.origin import DENSE
from blendsearch.runs.pareto import (
    apply_promotions,
    find_dense_network,
    find_knee,
    select_best_baselines,
    select_evaluated,
    select_front,
    select_highest_fidelity,
)
from blendsearch.runs.records import Evaluation, FinalResult, Latency, Promotion, TestResult
from blendsearch.runs.run import Run


def summarize_run(run: Run) -> dict[str, Any]:
    """``dense``, ``baselines`` and ``front`` as lists of one object per network, equal for equal searches.

    Each has `id`, `cut` (digest), `origin`, `macs_ratio`, `params_ratio`, `val_loss`, `val_accuracy`, `test_accuracy`
    and `fidelity`; ratios and accuracies in [0, 1], `test_accuracy` None until the search has finished, and both None
    where a person's own judgement told no error; `further` is what else it told. Baselines are,
    at each seeded budget, the best single criterion and the best equal blend. ``finals`` are the networks that were
    fine-tuned for long, best validation first, each with `seeds` and, over them, the mean and the standard deviation
    (0 of one seed) of both accuracies: `val_accuracy`, `val_spread`, `test_accuracy`, `test_spread`. ``fidelities``
    says how far a cheaper judgement can be trusted: `tau`, Kendall's, between the losses that the same `networks` had
    at fidelity `cheaper` and `dearer` in this run (None below three networks). Where memory or latency is budgeted,
    each network also has what `inspect.costs` gives.
    """
    rows, tests, finals, latencies, promotions = _read_store(run)
    valid, dense = select_highest_fidelity(rows, promotions), find_dense_network(rows, promotions)
    costs = make_cost_reader(run)

    further = make_extra_metrics_reader(run)

    def describe_rows(chosen: Sequence[Evaluation]) -> list[dict[str, Any]]:
        return [describe_evaluation(run, row, tests) | costs(row, latencies) | further(row) for row in chosen]

    return {
        "dense": describe_rows([] if dense is None else [dense]),
        "baselines": describe_rows(select_best_baselines(valid)),
        "front": describe_rows(select_front(valid, make_ranged_cost_reader(run))),
        "fidelities": _compare_fidelities(run, rows, promotions, finals),
        "finals": [_describe_final(run, row, done) | costs(row, latencies) for row, done in _rank_finals(rows, finals)],
    }


def _compare_fidelities(
    run: Run, rows: Sequence[Evaluation], promotions: Sequence[Promotion], finals: Sequence[FinalResult]
) -> list[dict[str, Any]]:
    """The agreement of each fidelity with the next dearer one."""
    first = {row.digest: row.loss for row in select_evaluated(rows)}
    stages: list[tuple[str, dict[str, Any]]] = [
        (next((row.fidelity for row in rows if row.origin != DENSE), ""), first)
    ]
    if promotions:
        promote = run.config.promote
        images = ", unused images" if promote.images == "unused" else ""
        stages.append((f"{promote.fidelity}{images}", {item.digest: item.loss for item in promotions}))
    if finals:
        stages.append(
            ("final", {key: fmean(item.loss for item in done) for key, done in _group_finals(finals).items()})
        )
    found = []
    for (cheaper, before), (dearer, after) in pairwise(stages):
        both = sorted(before.keys() & after.keys())
        tau = None
        if len(both) > 2:
            tau = float(kendalltau([before[digest] for digest in both], [after[digest] for digest in both]).statistic)
        found.append({"cheaper": cheaper, "dearer": dearer, "networks": len(both), "tau": tau})
    return found


def describe_evaluation(run: Run, row: Evaluation, tests: dict[str, TestResult]) -> dict[str, Any]:
    """One evaluation as in `summary`."""
    dense = run.structure["dense"]
    tested = tests.get(row.digest)
    return {
        "id": row.id,
        "cut": row.digest,
        "origin": row.origin,
        "macs_ratio": row.macs / dense["macs"],
        "params_ratio": row.params / dense["params"],
        "val_loss": row.loss,
        "val_accuracy": None if row.error is None or not has_accuracy(run) else 1 - row.error,
        "test_accuracy": None if tested is None or not has_accuracy(run) else 1 - tested.error,
        "fidelity": row.fidelity,
    }


def make_extra_metrics_reader(run: Run) -> Callable[[Evaluation], dict[str, Any]]:
    """From a network to ``{"further": ...}``, what else a person's own judgement told; nothing where no more."""
    with run.open_store(read_only=True) as store:
        known = store.read_extra_metrics()
    return lambda row: {"further": known[row.digest]} if row.digest in known else {}


def has_accuracy(run: Run) -> bool:
    """Whether networks were judged by an error too; where a person's own judgement told none, nobody has accuracies."""
    return bool(run.structure.get("error", True))


def _group_finals(finals: Sequence[FinalResult]) -> dict[str, list[FinalResult]]:
    """The fine-tunes of each network, by its digest."""
    by_digest: dict[str, list[FinalResult]] = {}
    for item in finals:
        by_digest.setdefault(item.digest, []).append(item)
    return by_digest


def _rank_finals(
    rows: Sequence[Evaluation], finals: Sequence[FinalResult]
) -> list[tuple[Evaluation, list[FinalResult]]]:
    """The fine-tuned networks with their fine-tunes, the one with the least mean validation error first."""
    by_digest = _group_finals(finals)
    pairs = [(row, by_digest[row.digest]) for row in rows if row.digest in by_digest]
    return sorted(pairs, key=lambda pair: (fmean(item.error for item in pair[1]), fmean(item.loss for item in pair[1])))


def _describe_final(run: Run, row: Evaluation, finals: Sequence[FinalResult]) -> dict[str, Any]:
    accuracies = [[1 - item.error for item in finals], [1 - item.test_error for item in finals]]
    (val, val_spread), (test, test_spread) = [
        (fmean(values), stdev(values) if len(values) > 1 else 0.0) for values in accuracies
    ]
    told = has_accuracy(run)
    return {
        **describe_evaluation(run, row, {}),
        "fidelity": "final",
        "seeds": len(finals),
        "val_loss": fmean(item.loss for item in finals),
        "val_accuracy": val if told else None,
        "val_spread": val_spread if told else None,
        "test_accuracy": test if told else None,
        "test_spread": test_spread if told else None,
    }


def select_final(run: Run, row: Evaluation) -> FinalResult | None:
    """The long fine-tune of `row` with the lowest validation loss; None where it had none."""
    found = [item for item in _read_store(run)[2] if item.digest == row.digest]
    return min(found, key=lambda item: (item.loss, item.repeat)) if found else None


def select_network(run: Run, selector: str) -> Evaluation:
    """The evaluation that `what` names: ``best``, ``knee``, or an id.

    Best is the lowest validation error after the long fine-tune where there was one, else the lowest validation loss on
    the front, among the networks that were judged again where some were.

    Raises RunError when there is none, or its evaluation failed.
    """
    rows, _, finals, _, promotions = _read_store(run)
    if selector == "best" and finals:
        return _rank_finals(rows, finals)[0][0]
    spent = make_ranged_cost_reader(run)
    on_front = select_front(select_highest_fidelity(rows, promotions), spent)
    if selector in ("best", "knee"):
        if not on_front:
            raise RunError(f"run {run.name!r} has no evaluated network yet: let it search first")
        return (
            find_knee(on_front, spent)
            if selector == "knee"
            else min(on_front, key=lambda row: (row.loss, row.macs, row.id))
        )
    found = apply_promotions([row for row in rows if str(row.id) == selector], promotions)
    if not found:
        raise RunError(
            f"run {run.name!r} has no network {selector!r}: expected best, knee or an id as `front` shows them"
        )
    if found[0].failure:
        raise RunError(f"network {selector} of run {run.name!r} could not be evaluated: {found[0].failure}")
    return found[0]


def has_budget_range(run: Run) -> bool:
    """Whether the run searched a range of budgets, so that its front is over costs."""
    return bool(run.config.budget.get_spanned_costs())


def _read_store(
    run: Run,
) -> tuple[list[Evaluation], dict[str, TestResult], list[FinalResult], dict[str, Latency], list[Promotion]]:
    with run.open_store(read_only=True) as store:
        return (
            store.read_evaluations(),
            store.read_tests(),
            store.read_finals(),
            store.read_latencies(),
            store.read_promotions(),
        )
