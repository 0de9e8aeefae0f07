"""Recording of evaluations and generations, shared by both schedules."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import compress
from typing import Any

import numpy as np

from blendsearch.errors import EvaluateError, RunError
from blendsearch.events import DenseEvaluated, Evaluated, EvaluationReport, GenerationDone, Resumed
from blendsearch.fitness.evaluator import Outcome, Request, make_request
from blendsearch.pipeline.archive import SearchArchive
from blendsearch.pipeline.optimizers.base import Candidate, CandidateResult
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.pipeline.problem.session import SearchSession
from blendsearch.runs.config.method_registry import get_method
from blendsearch.runs.origin import DENSE
from blendsearch.runs.records import Evaluation
from blendsearch.runs.run_facts import GenerationRow
from blendsearch.runs.store import Store

NOISE = 1e-3
"""Relative difference between two losses of one network, by a user-defined `evaluate=`, that causes a warning."""


def evaluate_dense(session: SearchSession) -> None:
    """Evaluate the dense network on the validation images as evaluation 0, unless the store has it."""
    problem, store = session.problem, session.store
    whole = problem.structure.maps.make_unpruned_cut()
    evaluation_request = make_request(whole, "raw", problem.config.seed)
    if not store.has_origin(DENSE):
        outcome = load_inherited_outcomes(store, "raw").get(evaluation_request.digest)
        if outcome is None:
            session.engine.submit(evaluation_request)
            (outcome,) = session.engine.iter_outcomes()
        candidate = Candidate(problem.decoder.space.make_equal_blend(), whole, evaluation_request.digest, DENSE)
        row = make_row(0, candidate, {}, 0, evaluation_request, outcome, problem)
        store_rows([row], [outcome], store)
        if outcome.failure:
            session.warn(f"the dense network could not be evaluated: {outcome.failure}")
        known = problem.dense_loss
        if known is not None and not outcome.failure and abs(known - outcome.loss) > NOISE * max(1, abs(known)):
            session.warn(
                f"two evaluations of one network gave losses {known:.4g} and {outcome.loss:.4g}: evaluate= is noisy, "
                "and smaller differences between networks mean nothing"
            )
        if not outcome.failure and _is_near_chance(row, problem):
            session.warn(
                f"the dense network has a validation accuracy of {1 - outcome.error:.1%}, near chance: check its "
                "weights, the normalisation (data.mean, data.std), and the numbering of the classes"
            )
        facts = vars(describe_row(row, problem))
        measure = problem.evaluator.recipe.task.metric or "accuracy"
        session.report(DenseEvaluated(**facts, tells_error=problem.has_error, measure=measure))


def _is_near_chance(row: Evaluation, problem: Problem) -> bool:
    """Return True for an accuracy below 1.5 times that of guessing."""
    classes = problem.splits.classes
    return problem.has_error and classes > 1 and row.error is not None and 1 - row.error < 1.5 / classes


def load_inherited_outcomes(store: Store, fidelity: str) -> dict[str, Outcome]:
    """Load by digest the outcomes at `fidelity` that a fork inherited from its parent and need not evaluate again."""
    return {
        item.digest: Outcome(
            item.digest,
            np.nan if item.loss is None else item.loss,
            np.nan if item.error is None else item.error,
            0.0,  # costs this run nothing
            item.failure,
            item.seed,
        )
        for item in store.read_inherited()
        if item.judged and item.fidelity == fidelity
    }


def make_row(
    number: int,
    candidate: Candidate,
    genome_values: dict[str, Any],
    generation: int,
    evaluation_request: Request,
    outcome: Outcome,
    problem: Problem,
) -> Evaluation:
    """Make the row that the store keeps of `outcome`; `genome_values` is the candidate's genome as JSON values."""
    counts = problem.structure.maps.count_kept(candidate.cut)
    oracle = problem.structure.oracle
    return Evaluation(
        id=number,
        digest=candidate.digest,
        cut=evaluation_request.cut,
        fidelity=evaluation_request.fidelity,
        seed=evaluation_request.seed,
        generation=generation,
        origin=candidate.origin,
        genome=json.dumps(genome_values),
        macs=int(oracle.compute_cost("macs", counts)),
        params=int(oracle.compute_cost("params", counts)),
        loss=None if outcome.failure else outcome.loss,
        error=None if outcome.failure else outcome.error,
        seconds=outcome.seconds,
        failure=outcome.failure,
    )


def store_rows(
    rows: Sequence[Evaluation],
    outcomes: Sequence[Outcome],
    store: Store,
    asked: int = 0,
    archive: SearchArchive | None = None,
) -> list[bool]:
    """Store the `rows` of `outcomes` in one transaction, and add new ones to `archive`; see `Store.add_all`."""
    extra_metrics = {outcome.digest: outcome.extra_metrics for outcome in outcomes if outcome.extra_metrics}
    added = store.add_all(rows, asked, extra_metrics)
    if archive is not None:
        for row in compress(rows, added):
            archive.add(row)
    return added


@contextmanager
def store_on_interruption(store_arrived: Callable[[], object]) -> Iterator[None]:
    """Call `store_arrived` also where the block is left by an exception: nothing that has arrived is lost."""
    try:
        yield
    except BaseException:
        with suppress(Exception):  # the store may be what failed
            store_arrived()
        raise


def make_candidate_result(candidate: Candidate, row: Evaluation, problem: Problem) -> CandidateResult | None:
    """Make the result that the optimizer receives; None where the evaluation failed."""
    if row.failure:
        return None
    return CandidateResult(candidate.genome, problem.compute_objectives(row), row.digest, candidate.origin)


def describe_row(row: Evaluation, problem: Problem) -> EvaluationReport:
    """Describe an evaluation for its event."""
    dense = problem.structure.oracle.dense
    return EvaluationReport(
        id=row.id,
        origin=row.origin,
        loss=row.loss,
        error=row.error,
        macs_ratio=row.macs / dense["macs"],
        params_ratio=row.params / dense["params"],
        seconds=row.seconds,
        failure=row.failure,
    )


def report_evaluation(row: Evaluation, session: SearchSession) -> None:
    """Report an evaluation, with the load of the engine."""
    facts, engine = vars(describe_row(row, session.problem)), session.engine
    session.report(Evaluated(**facts, busy=engine.busy_workers, workers=engine.workers))


def describe_progress(asked: int, generation: int, session: SearchSession, archive: SearchArchive) -> Resumed:
    """Describe the point at which a search resumes, after `asked` evaluations."""
    problem = session.problem
    best = None if archive.best is None else session.store.read_evaluation(archive.best)
    return Resumed(
        evaluations=asked,
        generation=generation,
        best=None if best is None else describe_row(best, problem),
        hypervolumes=[item["summary"]["hypervolume"] for item in archive.generations],
        tells_error=problem.has_error,
    )


def record_generation(generation: int, wall: float, session: SearchSession, archive: SearchArchive) -> None:
    """Store and report the result of a generation, or of `population` evaluations of a steady search.

    `wall` is its duration in seconds. Raises EvaluateError where no network of the run has been evaluated successfully.
    """
    mine = archive.list_generation(generation - 1)
    if mine and archive.best is None:
        raise EvaluateError(
            f"none of the first {len(mine)} networks could be evaluated, the last because: {mine[-1][2]}; fix "
            "that and start a new search"
        )
    summary = archive.summarize()
    spent = sum(seconds for _, seconds, _ in mine)
    row: GenerationRow = {
        "generation": generation,
        "evaluations": len(mine),
        "seconds": spent,
        "wall": wall,
        "summary": summary,
    }
    session.store.add_generation(row)
    archive.add_generation(row)
    session.report(GenerationDone(generation=generation, evaluations=archive.evaluations, seconds=wall, **summary))


def check_stored(asked: int, generation: int, session: SearchSession) -> None:
    """Raise RunError where the store lacks evaluations that a checkpoint after `asked` of them, in `generation`
    generations, counts, or has others of those generations.

    A raw evaluation of the unpruned cut is the dense network's, and has no number of its own.
    """
    raw = session.problem.config.fitness.fidelity == "raw"
    rows = session.store.read_bare_evaluations(-1)
    stored = {row.id for row in rows if row.id <= asked}
    if any((row.id <= asked) != (row.generation < generation) for row in rows if row.id):
        raise RunError(
            f"run.sqlite of run {session.run.name!r} has other generations than its last checkpoint counts: restore "
            "both from a copy, or fork the run to start from what is left"
        )
    missing = asked - sum(number > 0 for number in stored) - (raw and 0 in stored)
    if missing > 0:
        _refuse_missing(missing, f"the {asked} evaluations that its last checkpoint counts", session)


def check_journal(session: SearchSession) -> None:
    """Raise RunError where the store lacks evaluations of its journal or of its generations, or the journal lacks
    stored ones.
    """
    store = session.store
    stored = set(store.read_digests(-1, sys.maxsize))
    listed = {item.id for item in store.read_completions()}
    if missing := len(listed - stored):
        _refuse_missing(missing, f"the {len(listed)} evaluations that its journal lists", session)
    if missing := len(stored - listed):
        _refuse_missing(missing, f"the {len(stored)} entries that its journal needs", session)
    counted = sum(item["evaluations"] for item in store.read_generations())
    if (missing := counted - sum(number > 0 for number in stored)) > 0:
        _refuse_missing(missing, f"the {counted} evaluations that its generations count", session)


def check_completions(counted: int, session: SearchSession) -> None:
    """Raise RunError where the journal has fewer entries than the `counted` ones of a checkpoint."""
    if (missing := counted - session.store.count_completions()) > 0:
        _refuse_missing(missing, f"the {counted} entries of its journal that its last checkpoint counts", session)


def _refuse_missing(missing: int, expected: str, session: SearchSession) -> None:
    raise RunError(
        f"run.sqlite of run {session.run.name!r} lacks {missing} of {expected}: restore the file from a copy, or fork "
        "the run to start from what is left"
    )


def warn_of_baselines(count: int, session: SearchSession) -> None:
    """Warn where `count` baselines take most of the evaluations."""
    evaluations = session.problem.config.search.evaluations
    if 2 * count > evaluations:
        session.warn(f"{count} baselines take most of {evaluations} evaluations: name fewer in criteria.pool")


def warn_of_exhaustion(session: SearchSession) -> None:
    """Warn that every reachable cut was evaluated, unless the method has a fixed set of networks."""
    if not get_method(session.problem.config.method).traits.fixed_networks:
        session.warn("the search space is used up: every reachable cut has been evaluated")
