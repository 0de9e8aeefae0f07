"""The results of a run: the dense network, the baselines, the front, and the networks that were fine-tuned."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean, stdev
from typing import NamedTuple

from blendsearch.errors import RunError
from blendsearch.results.agreement import compute_kendall_tau
from blendsearch.results.costs import make_cost_reader, make_ranged_cost_reader, needs_cuts_for_costs
from blendsearch.results.ladder_records import LadderRecord
from blendsearch.results.ladder_summary import compare_with_noise, read_ladder
from blendsearch.results.metrics import RunMetric
from blendsearch.results.records import (
    BudgetedCosts,
    EvaluationRecord,
    FidelityAgreement,
    FinalRecord,
    NetworkRecord,
    RunSummary,
)
from blendsearch.runs.config.method_registry import get_method
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
from blendsearch.runs.records import Evaluation, FinalResult, Latency, Promotion, RungResult, TestResult
from blendsearch.runs.run import Run


def summarize_run(run: Run) -> RunSummary:
    """Read the results of `run`, in any state."""
    stored = _read_store(run)
    valid = select_highest_fidelity(stored.rows, stored.promotions)
    dense = find_dense_network(stored.rows, stored.promotions)
    costs, further = make_cost_reader(run), make_extra_metrics_reader(run)
    finals = tuple(
        _describe_final(run, row, done, costs(row, stored.latencies))
        for row, done in rank_finals(stored.rows, stored.finals)
    )

    def describe_rows(rows: Sequence[Evaluation]) -> tuple[NetworkRecord, ...]:
        return tuple(
            make_network_record(describe_evaluation(run, row, stored.tests), costs(row, stored.latencies), further(row))
            for row in rows
        )

    return RunSummary(
        dense=describe_rows([] if dense is None else [dense]),
        baselines=describe_rows(select_best_baselines(valid)),
        front=describe_rows(select_front(valid, make_ranged_cost_reader(run))),
        fidelities=_compare_fidelities(run, stored),
        finals=finals,
        noise=compare_with_noise(run, finals),
        ladder=stored.ladder,
    )


def describe_evaluation(run: Run, row: Evaluation, tests: Mapping[str, TestResult]) -> EvaluationRecord:
    """One evaluation of a run, with its test accuracy where `tests` has it."""
    dense, tested = run.structure["dense"], tests.get(row.digest)
    return EvaluationRecord(
        id=row.id,
        cut=row.digest,
        origin=row.origin,
        macs_ratio=row.macs / dense["macs"],
        params_ratio=row.params / dense["params"],
        val_loss=row.loss,
        val_accuracy=None if row.error is None or not has_accuracy(run) else 1 - row.error,
        test_accuracy=None if tested is None or not has_accuracy(run) else 1 - tested.error,
        fidelity=row.fidelity,
    )


def make_network_record(
    evaluation: EvaluationRecord, costs: BudgetedCosts, further: Mapping[str, float] | None
) -> NetworkRecord:
    """Join the parts of a network's record."""
    return NetworkRecord(**vars(evaluation), **vars(costs), further=further)


def make_extra_metrics_reader(run: Run) -> Callable[[Evaluation], Mapping[str, float] | None]:
    """Make the function from a network to the other numbers of its user-defined evaluation; None for no others."""
    with run.open_store(read_only=True) as store:
        known = store.read_extra_metrics()
    return lambda row: known.get(row.digest)


def has_accuracy(run: Run) -> bool:
    """Check whether networks have accuracies: none has where a user-defined evaluation gives no error."""
    return bool(run.structure.get("error", True))


def get_accuracy_name(run: Run) -> str:
    """Return the name of what is shown as accuracy: a metric such as mIoU, where the task has one."""
    return str(run.structure.get("metric", "accuracy"))


def get_metric(run: Run) -> RunMetric:
    """Return the metric of a run."""
    task = run.config.task
    if has_accuracy(run):
        return RunMetric(name=get_accuracy_name(run))
    if task.metric is not None:
        return RunMetric(name=task.name, higher=task.metric == "higher", share=False)
    return RunMetric(name="loss", higher=False, share=False)


def has_budget_range(run: Run) -> bool:
    """Check whether the run searched a range of budgets, so that its front is over costs."""
    return bool(run.config.budget.get_spanned_costs())


def describe_training(run: Run) -> str:
    """Describe in words how a network was fine-tuned: by its method, or by the long fine-tune."""
    method = run.config.method
    return f"as {method} trained it" if get_method(method).traits.trains_itself else "after the long fine-tune"


def select_final(run: Run, row: Evaluation) -> FinalResult | None:
    """Select the long fine-tune of `row` with the lowest validation loss; None where it had none."""
    found = [item for item in _read_store(run).finals if item.digest == row.digest]
    return min(found, key=lambda item: (item.loss, item.repeat)) if found else None


def select_network(run: Run, selector: str) -> Evaluation:
    """Select a network: ``best``, ``knee``, or an id.

    The best one has the lowest validation error after the long fine-tune. Without fine-tunes it has the lowest
    validation loss on the front, which after a promotion holds promoted networks alone.

    Raises RunError when there is none, or its evaluation failed.
    """
    stored = _read_store(run)
    if selector == "best" and stored.finals:
        return _read_completely(run, rank_finals(stored.rows, stored.finals)[0][0])
    if selector in ("best", "knee"):
        chosen = _select_on_front(run, selector, select_highest_fidelity(stored.rows, stored.promotions))
        return _read_completely(run, chosen)
    found = apply_promotions([row for row in stored.rows if str(row.id) == selector], stored.promotions)
    if not found:
        raise RunError(
            f"run {run.name!r} has no network {selector!r}: expected best, knee or an id as `front` shows them"
        )
    if found[0].failure:
        raise RunError(f"network {selector} of run {run.name!r} could not be evaluated: {found[0].failure}")
    return _read_completely(run, found[0])


def _read_completely(run: Run, row: Evaluation) -> Evaluation:
    """Return `row` with its cut and its genome from the store."""
    with run.open_store(read_only=True) as store:
        whole = store.read_evaluation(row.id)
    return row if whole is None else row._replace(cut=whole.cut, genome=whole.genome)


def _select_on_front(run: Run, selector: str, rows: Sequence[Evaluation]) -> Evaluation:
    costs = make_ranged_cost_reader(run)
    front = select_front(rows, costs)
    if not front:
        raise RunError(f"run {run.name!r} has no evaluated network yet: let it search first")
    return find_knee(front, costs) if selector == "knee" else min(front, key=lambda row: (row.loss, row.macs, row.id))


def _compare_fidelities(run: Run, stored: "_StoredResults") -> tuple[FidelityAgreement, ...]:
    """The agreement of each fidelity with the next higher one."""
    first = next((row.fidelity for row in stored.rows if row.origin != DENSE), "")
    stages: list[tuple[str, dict[str, float | None]]] = [
        (first, {row.digest: row.loss for row in select_evaluated(stored.rows)})
    ]
    if stored.promotions:
        promote = run.config.promote
        images = ", unused images" if promote.images == "unused" else ""
        stages.append((f"{promote.fidelity}{images}", {item.digest: item.loss for item in stored.promotions}))
    for rung in sorted({item.rung for item in stored.rungs}):
        losses = {item.digest: item.loss for item in stored.rungs if item.rung == rung and not item.failure}
        if rung <= len(run.config.ladder.rungs):
            stages.append((f"rung {rung}", losses))
    if stored.finals:
        grouped = _group_finals(stored.finals)
        stages.append(("final", {key: fmean(item.loss for item in done) for key, done in grouped.items()}))
    return tuple(_compare_losses(low, before, high, after) for (low, before), (high, after) in pairwise(stages))


def _compare_losses(
    low: str, before: Mapping[str, float | None], high: str, after: Mapping[str, float | None]
) -> FidelityAgreement:
    both = sorted(before.keys() & after.keys())
    tau = None
    if len(both) > 2:
        tau = compute_kendall_tau([(before[digest] or 0.0, after[digest] or 0.0) for digest in both])
    return FidelityAgreement(cheaper=low, dearer=high, networks=len(both), tau=tau)


def _group_finals(finals: Sequence[FinalResult]) -> dict[str, list[FinalResult]]:
    """Group the fine-tunes by the digest of their network."""
    by_digest: dict[str, list[FinalResult]] = {}
    for item in finals:
        by_digest.setdefault(item.digest, []).append(item)
    return by_digest


def rank_finals(
    rows: Sequence[Evaluation], finals: Sequence[FinalResult]
) -> list[tuple[Evaluation, list[FinalResult]]]:
    """Rank the fine-tuned networks by mean validation error, the lowest first, each with its fine-tunes."""
    by_digest = _group_finals(finals)
    pairs = [(row, by_digest[row.digest]) for row in rows if row.digest in by_digest]
    return sorted(pairs, key=lambda pair: (fmean(item.error for item in pair[1]), fmean(item.loss for item in pair[1])))


def _describe_final(run: Run, row: Evaluation, finals: Sequence[FinalResult], costs: BudgetedCosts) -> FinalRecord:
    accuracies = has_accuracy(run)
    val, val_spread = _compute_spread([1 - item.error for item in finals]) if accuracies else (None, None)
    test, test_spread = _compute_spread([1 - item.test_error for item in finals]) if accuracies else (None, None)
    facts = vars(describe_evaluation(run, row, {})) | {
        "fidelity": "final",
        "val_loss": fmean(item.loss for item in finals),
        "val_accuracy": val,
        "test_accuracy": test,
    }
    return FinalRecord(**facts, **vars(costs), seeds=len(finals), val_spread=val_spread, test_spread=test_spread)


def _compute_spread(values: Sequence[float]) -> tuple[float, float]:
    """Compute mean and standard deviation, 0 of one value."""
    return fmean(values), stdev(values) if len(values) > 1 else 0.0


class _StoredResults(NamedTuple):
    rows: list[Evaluation]
    tests: dict[str, TestResult]
    finals: list[FinalResult]
    latencies: dict[str, Latency]
    promotions: list[Promotion]
    rungs: list[RungResult]
    ladder: LadderRecord | None


def _read_store(run: Run) -> _StoredResults:
    """Read the results of a run: rows without genomes, and without cuts where costs do not need them."""
    with run.open_store(read_only=True) as store:
        return _StoredResults(
            store.read_bare_evaluations(-1, cuts=needs_cuts_for_costs(run)),
            store.read_tests(),
            store.read_finals(),
            store.read_latencies(),
            store.read_promotions(),
            store.read_rungs(),
            read_ladder(run, store),
        )
