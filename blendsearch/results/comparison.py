"""Comparison of a run with its controls, seed by seed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, stdev

from blendsearch.errors import RunError
from blendsearch.results.records import ComparisonTable, FoundNetwork, MethodSummary, PairedDifference, Spread
from blendsearch.results.summary import describe_evaluation, get_accuracy_name, has_accuracy, rank_finals
from blendsearch.runs.origin import Origin
from blendsearch.runs.pareto import select_evaluated, select_highest_fidelity
from blendsearch.runs.records import Evaluation, FinalResult, TestResult
from blendsearch.runs.run import Run, list_runs, open_run

CONFIDENCE = 0.95

TRAINED_SUFFIX = ", trained"
"""Ends the name of a row whose networks are compared after their training, not after the recovery of the search."""

BEST_RULE = f"best rule{TRAINED_SUFFIX}"
"""The best baseline among the networks that the run's own method trained."""

Found = dict[int, FoundNetwork]
"""The best networks of one method by seed."""


def summarize_comparison(run: Run) -> ComparisonTable:
    """Compare `run` with its finished controls.

    The baselines are rows too: those in the first generation of the run's own method. A method with trained networks
    has two rows: the best cut recovered from the dense weights like every other, and, after training, ``, trained``.
    Where the run's own method trained networks, such rows are compared with its trained one, and decide the verdict.
    Raises RunError where the run has not finished.
    """
    by_method = _collect_results(run)
    own = run.config.method
    if not by_method.get(own):
        raise RunError(f"run {run.name!r} has not finished: resume it, then compare")
    trained = by_method.get(f"{own}{TRAINED_SUFFIX}")
    rows = tuple(
        _summarize_method(name, trained if trained and name.endswith(TRAINED_SUFFIX) else by_method[own], found)
        for name, found in by_method.items()
    )
    decisive = [row for row in rows if row.name.endswith(TRAINED_SUFFIX)] if trained else rows
    ranked = sorted(decisive, key=lambda row: row.difference is not None)
    verdict = _format_verdict(ranked, get_accuracy_name(run))
    return ComparisonTable(run=run.name, budget=_format_budget(run), methods=rows, verdict=verdict)


def _collect_results(run: Run) -> dict[str, Found]:
    """Collect the networks of the run's own method, its controls and its baselines, by method."""
    folder = run.path / "controls"
    by_method: dict[str, Found] = {run.config.method: {}}
    for control in (run, *(open_run(folder, name) for name in list_runs(folder))):
        if control.finished:
            for name, found in _collect_run(control, baselines=control.config.method == run.config.method).items():
                by_method.setdefault(name, {})[control.config.seed] = found
    return by_method


def _collect_run(run: Run, *, baselines: bool) -> dict[str, FoundNetwork]:
    """Collect the networks that one run found, by method."""
    with run.open_store(read_only=True) as store:
        rows, tests, finals = select_evaluated(store.read_bare_evaluations(-1)), store.read_tests(), store.read_finals()
        promoted = select_highest_fidelity(rows, store.read_promotions())
        probes = len(store.read_probes())
    if not rows:
        raise RunError(f"run {run.name!r} has no evaluated network to compare: its {run.path / 'run.sqlite'} is empty")
    method, best = run.config.method, _select_best(run, rows, promoted, tests)
    found: dict[str, FoundNetwork] = {method: replace(best, evaluations=best.evaluations + probes)}
    if finals:
        found[f"{method}{TRAINED_SUFFIX}"] = _select_best_final(run, rows, finals, best.evaluations + probes)
        rules = [row for row in rows if Origin.parse(row.origin).is_baseline and baselines]
        if any(item.digest == row.digest for row in rules for item in finals):
            found[BEST_RULE] = _select_best_final(run, rules, finals, len(rules))
    if baselines:
        kinds = _group_by_kind(rows)
        # a network of the method itself may have its name as a kind of baseline
        found |= {kind: _select_best(run, chosen, promoted, tests) for kind, chosen in kinds.items()}
    return found


def _group_by_kind(rows: Sequence[Evaluation]) -> dict[str, list[Evaluation]]:
    kinds: dict[str, list[Evaluation]] = {}
    for row in rows:
        for kind in Origin.parse(row.origin).baseline_kinds:
            kinds.setdefault(kind, []).append(row)
    return kinds


def _select_best_final(
    run: Run, rows: Sequence[Evaluation], finals: Sequence[FinalResult], evaluations: int
) -> FoundNetwork:
    """Select the network of `rows` with the lowest validation error after training; metrics are means over seeds."""
    row, done = rank_finals(rows, finals)[0]
    facts, accuracies = describe_evaluation(run, row, {}), has_accuracy(run)
    return FoundNetwork(
        seed=run.config.seed,
        cut=facts.cut,
        origin=Origin.parse(facts.origin).label,
        evaluations=evaluations,
        macs_ratio=facts.macs_ratio,
        params_ratio=facts.params_ratio,
        val_loss=fmean(item.loss for item in done),
        val_accuracy=1 - fmean(item.error for item in done) if accuracies else None,
        test_accuracy=1 - fmean(item.test_error for item in done) if accuracies else None,
    )


def _select_best(
    run: Run, candidates: Sequence[Evaluation], highest_fidelity: Sequence[Evaluation], tests: Mapping[str, TestResult]
) -> FoundNetwork:
    """Select the best of the candidates by validation loss at the highest fidelity that one of them has."""
    ids = {row.id for row in candidates}
    promoted = [row for row in highest_fidelity if row.id in ids] or candidates
    best = min(promoted, key=lambda row: (row.loss, row.id))
    facts = describe_evaluation(run, best, tests)
    return FoundNetwork(
        seed=run.config.seed,
        cut=facts.cut,
        origin=Origin.parse(facts.origin).label,
        evaluations=len(candidates),
        macs_ratio=facts.macs_ratio,
        params_ratio=facts.params_ratio,
        val_loss=best.loss or 0.0,
        val_accuracy=facts.val_accuracy,
        test_accuracy=facts.test_accuracy,
    )


def _summarize_method(name: str, own: Found, results: Found) -> MethodSummary:
    found = tuple(results[seed] for seed in sorted(results))
    difference = None
    if results is not own:
        pairs = [(own[seed].test_accuracy, results[seed].test_accuracy) for seed in sorted(own.keys() & results.keys())]
        difference = compute_paired_difference([(a, b) for a, b in pairs if a is not None and b is not None])
    return MethodSummary(
        name=name,
        seeds=tuple(sorted(results)),
        found=found,
        val_loss=_compute_spread([item.val_loss for item in found]),
        val_accuracy=_compute_spread([item.val_accuracy for item in found]),
        test_accuracy=_compute_spread([item.test_accuracy for item in found]),
        difference=difference,
    )


def _compute_spread(values: Sequence[float | None]) -> Spread:
    known = [value for value in values if value is not None]
    return Spread(mean=fmean(known) if known else None, deviation=stdev(known) if len(known) > 1 else None)


def compute_paired_difference(pairs: Sequence[tuple[float, float]]) -> PairedDifference:
    """Compute the mean of first minus second, and the half-width of its confidence interval by Student's t."""
    differences = [one - other for one, other in pairs]
    half = None
    if len(differences) > 1:
        from scipy.stats import t as student  # takes long to import

        quantile = float(student.ppf((1 + CONFIDENCE) / 2, len(differences) - 1))
        half = quantile * stdev(differences) / len(differences) ** 0.5
    return PairedDifference(mean=fmean(differences) if differences else None, half_width=half, pairs=len(differences))


def _format_verdict(rows: Sequence[MethodSummary], metric: str) -> str:
    """Compare the first row with the control that comes closest, in a sentence without a full stop."""
    controls = [
        (row.difference.mean, row.difference, row.name)
        for row in rows[1:]
        if row.difference is not None and row.difference.mean is not None
    ]
    if not controls:
        return "no controls to compare with yet"
    gain, difference, name = min(controls, key=lambda item: item[0])
    points = f"{_format_points(gain)} points of test {metric}"
    half = difference.half_width
    if half is None:
        return f"{points} against the best control, {name}; one seed gives no interval: compare on more seeds"
    interval = (
        f"{CONFIDENCE:.0%} interval {_format_points(gain - half)} to {_format_points(gain + half)}, "
        f"{len(rows[0].seeds)} seeds"
    )
    if gain + half < 0:
        return f"significant loss against the best control, {name}: {points} ({interval})"
    result = "significant gain" if gain - half > 0 else "no significant gain"
    return f"{result} over the best control, {name}: {points} ({interval})"


def _format_points(difference: float) -> str:
    return f"{100 * difference:+.2f}"


def _format_budget(run: Run) -> str:
    return ", ".join(f"{high:.0%} of {name}" for name, (_, high) in run.config.budget.get_spans().items())
