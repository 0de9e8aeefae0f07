"""Stages after the search: promotion to a higher fidelity, long fine-tunes, test accuracy, latency.

The final result is chosen among the promoted networks, by their higher-fidelity evaluations, where there are any.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from blendsearch.events import LatenciesMeasured, Promoted, Tested
from blendsearch.fitness.evaluator import make_request
from blendsearch.fitness.latency_benchmark import LatencyMeasurement, measure_fastest_passes, measure_latencies
from blendsearch.fitness.runtimes import list_report_runtimes
from blendsearch.fitness.timers import BenchmarkSettings
from blendsearch.pipeline.final_training import train_finals
from blendsearch.pipeline.ladder import make_ladder
from blendsearch.pipeline.methods.method import load_method
from blendsearch.pipeline.problem.costs import describe_conditions, make_conditions
from blendsearch.pipeline.problem.inputs import is_in_python
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.pipeline.problem.session import SearchSession
from blendsearch.pipeline.rate_probe import find_rate
from blendsearch.runs.origin import DENSE
from blendsearch.runs.pareto import (
    find_knee,
    select_best_baselines,
    select_evaluated,
    select_front,
    select_highest_fidelity,
)
from blendsearch.runs.records import Evaluation, Latency, Promotion, TestResult
from blendsearch.structure.groups import Cut, unpack_cut

MAX_WEIGHT_BYTES = 2**30
"""Upper limit of the stored weights of a run directory, in bytes."""

MEASURED_NETWORKS = 6
"""Networks along the front whose latency is measured where it has no budget."""


def select_promotions(rows: Sequence[Evaluation], problem: Problem) -> list[Evaluation]:
    """Select the best `promote.share` of the networks, and the best baselines, for evaluation at a higher fidelity.

    At one budget, they are ordered by the search's objectives; over a span of budgets, by successive fronts.
    """
    valid = select_evaluated(rows)
    count = round(problem.config.promote.share * len(valid))
    if not count:
        return []
    best: list[Evaluation] = []
    if problem.decoder.has_budget_range:
        left = valid
        while len(best) < count and left:
            best += select_front(left, problem.compute_costs)
            taken = {row.id for row in best}
            left = [row for row in left if row.id not in taken]
    else:
        best = sorted(valid, key=lambda row: (*problem.compute_objectives(row), row.id))
    return list({row.digest: row for row in [*best[:count], *select_best_baselines(valid)]}.values())


def promote(session: SearchSession) -> None:
    """Evaluate the promoted networks again on validation images; stored results stay.

    Where these are not the search's images, the dense network is evaluated on them too, for comparison.
    """
    problem, store = session.problem, session.store
    config = problem.config.promote
    split = config.get_split()
    rows, done = store.read_evaluations(), {item.digest for item in store.read_promotions()}
    chosen = select_promotions(rows, problem)
    if chosen and split == "unused":
        chosen = [*chosen, *(row for row in rows if row.origin == DENSE and not row.failure)]
    fidelities = {row.digest: row.fidelity if row.origin == DENSE else config.fidelity for row in chosen}
    for row in chosen:
        if row.digest not in done:
            cut = unpack_cut(row.cut, problem.structure.maps.channels)
            session.engine.submit(make_request(cut, fidelities[row.digest], problem.config.seed, split))
    for outcome in session.engine.iter_outcomes():
        fidelity = fidelities[outcome.digest]
        if outcome.failure:
            session.warn(f"evaluating {outcome.digest[:8]} again failed: {outcome.failure}")
            continue
        store.add_promotion(Promotion(outcome.digest, fidelity, outcome.loss, outcome.error, outcome.seconds))
        session.report(Promoted(done=len(store.read_promotions()), of=len(chosen)))


def select_finals(rows: Sequence[Evaluation], promotions: Sequence[Promotion], problem: Problem) -> list[Evaluation]:
    """Select the networks for long fine-tuning: `finals.picks` of the search, then the best baselines.

    At one budget, these are the best by their highest-fidelity evaluation; over a span, evenly along the front, and a
    single one is the best. A method may select others.
    """
    count, method = problem.config.finals.count_picks(), load_method(problem.config.method)
    if not count:
        return []
    chosen = method.select_finals(problem, rows)
    if chosen is not None:
        return chosen
    valid = select_highest_fidelity(rows, promotions)
    if problem.decoder.has_budget_range:
        best = _select_along_front(select_front(valid, problem.compute_costs), count)
    else:
        again = {row.digest for row in valid}
        others = [row for row in select_evaluated(rows) if row.digest not in again]
        found = [row for row in [*valid, *others] if method.is_eligible_final(row)]
        # a network that was not promoted was worse than every promoted one
        order = sorted(found, key=lambda row: (row.digest not in again, *problem.compute_objectives(row), row.id))
        best = order[:count]
    unique = {row.digest: row for row in [*best, *select_best_baselines(valid)]}
    return list(unique.values())


def _select_along_front(front: Sequence[Evaluation], count: int) -> list[Evaluation]:
    """Select `count` networks evenly along the front; a single one is the network with the lowest loss."""
    if count == 1:
        return sorted(front, key=lambda row: (row.loss, row.macs, row.id))[:1]
    places = np.unique(np.linspace(0, len(front) - 1, min(count, len(front))).round().astype(int))
    return [front[place] for place in places]


def run_finals(session: SearchSession) -> None:
    """Fine-tune the finals on every seed, evaluate them, and save their weights; stored results stay.

    With a ladder, they are its finalists.
    """
    ladder = make_ladder(session)
    if ladder is not None:
        ladder.finish()
        return
    store, seeds = session.store, session.problem.config.finals.seeds
    done = {(item.digest, item.repeat) for item in store.read_finals()}
    chosen = select_finals(store.read_evaluations(), store.read_promotions(), session.problem)
    missing = [(row, repeat) for row in chosen for repeat in range(seeds) if (row.digest, repeat) not in done]
    rate = find_rate(session) if missing else None
    for _ in train_finals(session, missing, rate, len(chosen) * seeds):
        pass


def measure_reported_latencies(session: SearchSession) -> None:
    """Measure the latency of every reported network once, beside the dense one.

    Where latency has no budget, these are the fine-tuned networks, the best, the knee and some of the front; a failure
    is then a warning. It is one too where a command measures, whose device may be away by then.
    """
    budget = session.problem.config.budget
    try:
        shown = _select_shown(session)
        if "latency" in budget.get_spans():
            _measure_budgeted_latencies(session)
        else:
            done = session.store.read_latencies()
            waiting = {digest: row for digest, row in shown.items() if digest not in done}
            _measure(session, waiting, measure_fastest_passes)
    except Exception as error:  # a network may need other inputs than images, and the search is complete
        if "latency" in budget.get_spans() and budget.measured.command is None:
            raise
        session.warn(f"latency was not measured: {' '.join(str(error).split())[:200]}")
        return
    _measure_further_runtimes(session, shown)


def _select_shown(session: SearchSession) -> dict[str, Evaluation]:
    """Select the fine-tuned networks, the best, the knee and some of the front, by digest."""
    problem, store = session.problem, session.store
    valid = select_highest_fidelity(store.read_evaluations(), store.read_promotions())
    front = select_front(valid, problem.compute_costs)
    if not front:
        return {}
    finals = {item.digest for item in store.read_finals()}
    shown = [*(row for row in valid if row.digest in finals), *_select_along_front(front, 1)]
    shown += [find_knee(front, problem.compute_costs), *_select_along_front(front, MEASURED_NETWORKS)]
    return {row.digest: row for row in shown}


def _measure_further_runtimes(session: SearchSession, shown: Mapping[str, Evaluation]) -> None:
    """Measure the networks `shown`, by digest, in the runtimes that have no budget, as far as these can run them."""
    problem, store = session.problem, session.store
    conditions = _make_conditions(problem)
    done = store.read_runtime_latencies()
    for runtime in list_report_runtimes(conditions):
        waiting = {key: row for key, row in shown.items() if runtime not in done.get(key, {})}
        cuts = [unpack_cut(row.cut, problem.structure.maps.channels) for row in waiting.values()]
        settings = replace(conditions, runtime=runtime, command=None)
        with contextlib.suppress(Exception):  # exporters raise many types, and these figures are optional
            seconds = measure_fastest_passes(problem.model, problem.structure.maps, cuts, settings)
            for digest, (dense, own) in zip(waiting, seconds, strict=True):
                store.add_runtime_latency(digest, runtime, Latency(float(own / dense), float(own)))


def _make_conditions(problem: Problem) -> BenchmarkSettings:
    height, width, channels = problem.splits.train.shape
    return make_conditions(problem.config.budget, (channels, height, width))


def _measure(
    session: SearchSession, rows: Mapping[str, Evaluation], measure: LatencyMeasurement
) -> tuple[list[Cut], NDArray[np.float64]]:
    """Measure the networks of `rows`, by digest, and store their latencies; return the cuts and the seconds."""
    problem = session.problem
    maps = problem.structure.maps
    cuts = [unpack_cut(row.cut, maps.channels) for row in rows.values()]
    seconds = measure(problem.model, maps, cuts, _make_conditions(problem))
    for digest, (dense, own) in zip(rows, seconds, strict=True):
        session.store.add_latency(digest, Latency(float(own / dense), float(own)))
    return cuts, seconds


def _measure_budgeted_latencies(session: SearchSession) -> None:
    problem, store = session.problem, session.store
    config = problem.config.budget
    rows, done = store.read_evaluations(), store.read_latencies()
    valid = select_highest_fidelity(rows, store.read_promotions())
    finals = {item.digest for item in store.read_finals()}
    reported = [row for row in rows if row.origin == DENSE or row.digest in finals]
    reported += [*select_best_baselines(valid), *select_front(valid, problem.compute_costs)]
    waiting = {row.digest: row for row in reported if row.digest not in done}
    if not waiting:  # the search was stopped after the measurement
        return
    maps = problem.structure.maps
    cuts, seconds = _measure(session, waiting, measure_latencies)
    charged = problem.decoder.oracle.compute_ratio(
        "latency", maps.count_kept(np.array(cuts).reshape(-1, maps.channels))
    )
    slower = int((seconds[:, 1] / seconds[:, 0] > np.where(charged < 1, charged, np.inf)).sum())
    where = describe_conditions(problem.model, config)
    session.report(LatenciesMeasured(networks=len(cuts), slower=slower, where=where))


def evaluate_on_test_set(session: SearchSession) -> None:
    """Evaluate the dense network, the best baselines and the front on the test images, once, where there are any."""
    problem, store = session.problem, session.store
    if not problem.evaluator.recipe.task.is_testable:
        return
    rows = store.read_evaluations()
    done = store.read_tests()
    valid = select_highest_fidelity(rows, store.read_promotions())
    subjects = {row.digest: row for row in rows if row.origin == DENSE}
    for row in [*select_best_baselines(valid), *select_front(valid, problem.compute_costs)]:
        subjects[row.digest] = row
    for digest, row in subjects.items():
        if digest not in done:
            cut = unpack_cut(row.cut, problem.structure.maps.channels)
            session.engine.submit(make_request(cut, row.fidelity, problem.config.seed, "test"))
    for outcome in session.engine.iter_outcomes():
        if outcome.failure:
            session.warn(f"testing {outcome.digest[:8]} failed: {outcome.failure}")
        else:
            store.add_test(outcome.digest, TestResult(outcome.loss, outcome.error))
            session.report(Tested(digest=outcome.digest, done=len(store.read_tests()), of=len(subjects)))


def save_front_weights(session: SearchSession) -> None:
    """Save the weights of the front where the network exists only in Python, since the command line cannot rebuild it.

    The best network comes first, then the knee, then the others, up to `MAX_WEIGHT_BYTES`.
    """
    run, problem, store = session.run, session.problem, session.store
    found = select_front(
        select_highest_fidelity(store.read_evaluations(), store.read_promotions()), problem.compute_costs
    )
    if not is_in_python(problem.config) or not found:
        return
    best = min(found, key=lambda row: (row.loss, row.macs, row.id))
    left = MAX_WEIGHT_BYTES
    for row in {row.digest: row for row in [best, find_knee(found, problem.compute_costs), *found]}.values():
        left -= 4 * row.params
        if left >= 0 and not run.has_weights(row.digest, None):
            cut = unpack_cut(row.cut, problem.structure.maps.channels)
            session.engine.submit(make_request(cut, row.fidelity, problem.config.seed)._replace(return_weights=True))
    for outcome in session.engine.iter_outcomes():
        if outcome.failure or outcome.weights is None:
            session.warn(f"saving weights of {outcome.digest[:8]} failed: {outcome.failure}")
        else:
            run.save_weights(outcome.digest, None, outcome.weights)
