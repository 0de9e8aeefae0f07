"""A run beside its controls: what each found on each seed, and whether the search was worth it."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from scipy.stats import t as student

from blendsearch.errors import RunError
from blendsearch.results.summary import describe_evaluation
from blendsearch.runs.config.method_registry import get_method
from blendsearch.runs.origin import list_baseline_kinds
from blendsearch.runs.pareto import select_evaluated, select_highest_fidelity
from blendsearch.runs.records import Evaluation, FinalResult, TestResult
from blendsearch.runs.run import Run, list_runs, open_run

CONFIDENCE = 0.95

TRAINED_SUFFIX = ", trained"
"""Ends the name of such a method where its network is told with these weights, not recovered like the others'."""


class MethodResult(NamedTuple):
    """What one method found on one seed: its best network by validation, and that one's accuracy on test images."""

    cut: str
    origin: str
    evaluations: int
    macs_ratio: float
    params_ratio: float
    val_loss: float
    val_accuracy: float
    test_accuracy: float | None


def summarize_comparison(run: Run) -> dict[str, Any]:
    """``methods``: one object per method, the run's own first, and ``verdict``, a sentence.

    A method has `name`, `seeds`, `found` (one object per seed), and over seeds the `mean` and `deviation` of
    `val_accuracy`, `val_loss` and `test_accuracy`; a control has also `difference`: the run's own test accuracy minus
    its, paired by seed, with `mean` and the half-width of its 95 % confidence interval by Student's t (None on one
    seed). The single criteria and the equal blend are those that the run's own searches were seeded with. A method that
    trains its network has two rows: its cut, recovered from the dense weights like every other, and ``, trained``.
    """
    by_method = _collect_results(run)
    own = run.config.method
    if not by_method.get(own):
        raise RunError(f"run {run.name!r} has not finished: resume it, then compare")
    rows = [_summarize_method(name, by_method[own], found) for name, found in by_method.items()]
    return {"run": run.name, "budget": _format_budget(run), "methods": rows, "verdict": _format_verdict(rows)}


def _collect_results(run: Run) -> dict[str, dict[int, MethodResult]]:
    """By method and seed."""
    folder = run.path / "controls"
    runs = [run, *(open_run(folder, name) for name in list_runs(folder))]
    by_method: dict[str, dict[int, MethodResult]] = {run.config.method: {}}
    for held in runs:
        if not held.finished:
            continue
        seed, method = held.config.seed, held.config.method
        with held.open_store(read_only=True) as store:
            rows, tests, finals = select_evaluated(store.read_evaluations()), store.read_tests(), store.read_finals()
            again = select_highest_fidelity(rows, store.read_promotions())
            probes = len(store.read_probes())

        best = _select_best(held, rows, again, tests)
        by_method.setdefault(method, {})[seed] = best._replace(evaluations=best.evaluations + probes)
        if get_method(method).traits.trains_itself and finals:
            by_method.setdefault(f"{method}{TRAINED_SUFFIX}", {})[seed] = _use_final_metrics(best, finals)
        if method == run.config.method:
            kinds: dict[str, list[Evaluation]] = {}
            for row in rows:
                for kind in list_baseline_kinds(row):
                    kinds.setdefault(kind, []).append(row)
            for kind, chosen in kinds.items():
                by_method.setdefault(kind, {})[seed] = _select_best(held, chosen, again, tests)
    return by_method


def _use_final_metrics(result: MethodResult, finals: Sequence[FinalResult]) -> MethodResult:
    """What a method found, with the weights that its own training gave."""
    chosen = next(item for item in finals if item.digest == result.cut)
    val, test = 1 - chosen.error, 1 - chosen.test_error
    return result._replace(val_loss=chosen.loss, val_accuracy=val, test_accuracy=test)


def _select_best(
    run: Run, candidates: Sequence[Evaluation], highest_fidelity: Sequence[Evaluation], tests: dict[str, TestResult]
) -> MethodResult:
    """The best of `chosen` by its dearest judgement, as `front.dearest` gives them all in `again`."""
    ids = {row.id for row in candidates}
    # those that could not be judged again stand as they were
    dearest_of = [row for row in highest_fidelity if row.id in ids] or candidates
    best = min(dearest_of, key=lambda row: (row.loss, row.id))
    facts = describe_evaluation(run, best, tests)
    numbers = (facts[key] for key in ("macs_ratio", "params_ratio", "val_loss", "val_accuracy", "test_accuracy"))
    return MethodResult(facts["cut"], facts["origin"].split(" = ")[0], len(candidates), *numbers)


def _summarize_method(
    name: str, own: Mapping[int, MethodResult], results: Mapping[int, MethodResult]
) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "name": name,
        "seeds": sorted(results),
        "found": [{"seed": seed, **results[seed]._asdict()} for seed in sorted(results)],
    }
    for key in ("val_loss", "val_accuracy", "test_accuracy"):
        values = [getattr(results[seed], key) for seed in sorted(results)]
        known = [value for value in values if value is not None]
        facts[key] = {
            "mean": fmean(known) if known else None,
            "deviation": stdev(known) if len(known) > 1 else None,
        }
    if results is not own:
        pairs = [(own[seed].test_accuracy, results[seed].test_accuracy) for seed in sorted(own.keys() & results.keys())]
        facts["difference"] = compute_paired_difference([(a, b) for a, b in pairs if a is not None and b is not None])
    return facts


def compute_paired_difference(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Mean of first minus second, and the half-width of its confidence interval (None for fewer than two pairs)."""
    differences = [one - other for one, other in pairs]
    half = None
    if len(differences) > 1:
        quantile = float(student.ppf((1 + CONFIDENCE) / 2, len(differences) - 1))
        half = quantile * stdev(differences) / len(differences) ** 0.5
    return {"mean": fmean(differences) if differences else None, "half_width": half, "pairs": len(differences)}


def _format_verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    own, controls = rows[0], [row for row in rows[1:] if row["difference"]["mean"] is not None]
    if not controls:
        return "nothing to compare with yet"
    best = min(controls, key=lambda row: row["difference"]["mean"])
    gain, half = best["difference"]["mean"], best["difference"]["half_width"]
    beside = f"the best control, {best['name']}, on the test images"
    if half is None:
        return f"{gain:+.2%} beside {beside}; one seed says nothing about chance: compare on more"
    interval = f"({CONFIDENCE:.0%} interval {gain - half:+.2%} to {gain + half:+.2%}, {len(own['seeds'])} seeds)"
    if gain - half > 0:
        return f"{own['name']} found {gain:+.2%} more than {beside} {interval}"
    if gain + half < 0:
        return f"{own['name']} did not help: it found {gain:+.2%} beside {beside} {interval}"
    return f"{own['name']} did not measurably help: {gain:+.2%} beside {beside} {interval}"


def _format_budget(run: Run) -> str:
    return ", ".join(f"{high:.0%} of {name}" for name, (_, high) in run.config.budget.get_spans().items())
