"""What both schedules share: the row an outcome becomes, what an optimiser is told, the record of progress."""

import json
from typing import Any

import numpy as np

from blendsearch.engine.base import Engine
from blendsearch.errors import EvaluateError
from blendsearch.fitness.evaluator import Outcome, Request, make_request
from blendsearch.pipeline.optimizers.base import Candidate, CandidateResult
from blendsearch.pipeline.problem.problem import Problem, Reporter
from blendsearch.runs.config.method_registry import get_method
from blendsearch.runs.origin import DENSE
from blendsearch.runs.pareto import compute_hypervolume, select_evaluated, select_front
from blendsearch.runs.records import Evaluation
from blendsearch.runs.store import Store

NOISE = 1e-3
"""Losses of one network that differ by more, of a person's own judgement, are worth a warning."""


def evaluate_dense(problem: Problem, engine: Engine, store: Store, report: Reporter) -> None:
    """Judge the dense network on the validation images, as evaluation 0."""
    whole = problem.structure.maps.make_unpruned_cut()
    evaluation_request = make_request(whole, "raw", problem.config.seed)
    if all(row.origin != DENSE for row in store.read_evaluations()):
        outcome = load_inherited_outcomes(store, "raw").get(evaluation_request.digest)
        if outcome is None:
            engine.submit(evaluation_request)
            (outcome,) = engine.iter_outcomes()
        candidate = Candidate(problem.decoder.space.make_equal_blend(), whole, evaluation_request.digest, DENSE)
        row = make_row(0, candidate, {}, 0, evaluation_request, outcome, problem)
        store_row(row, outcome, store)
        if outcome.failure:
            report("warning", {"text": f"the dense network could not be judged: {outcome.failure}"})
        known = problem.dense_loss
        if known is not None and not outcome.failure and abs(known - outcome.loss) > NOISE * max(1, abs(known)):
            text = (
                f"one and the same network was judged twice, with losses {known:.4g} and {outcome.loss:.4g}: "
                "evaluate= is noisy, and networks that differ by less cannot be told apart"
            )
            report("warning", {"text": text})
        report("dense", {**describe_row(row, problem), "tells_error": problem.has_error})


def load_inherited_outcomes(store: Store, fidelity: str) -> dict[str, Outcome]:
    """By digest, what a fork need not judge again: the outcomes at `fidelity` of the run it was forked from."""
    return {
        item.digest: Outcome(
            item.digest,
            np.nan if item.loss is None else item.loss,
            np.nan if item.error is None else item.error,
            0.0,  # here it costs nothing
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
    """What the store keeps of `outcome`; `described` is the candidate's genome for a reader."""
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


def store_row(row: Evaluation, outcome: Outcome, store: Store, asked: int = 0) -> None:
    """Store `row` for good, and what else a person's own judgement said; see `Store.add` for `asked`."""
    store.add(row, asked)
    if outcome.extra_metrics:
        store.add_extra_metrics(row.digest, row.fidelity, outcome.extra_metrics)


def make_candidate_result(candidate: Candidate, row: Evaluation, problem: Problem) -> CandidateResult | None:
    """What an optimiser is told; None where there are no numbers."""
    if row.failure:
        return None
    return CandidateResult(candidate.genome, problem.compute_objectives(row), row.digest, candidate.origin)


def describe_row(row: Evaluation, problem: Problem) -> dict[str, Any]:
    """What is reported of an evaluation."""
    dense = problem.structure.oracle.dense
    return {
        "id": row.id,
        "origin": row.origin,
        "loss": row.loss,
        "error": row.error,
        "macs_ratio": row.macs / dense["macs"],
        "params_ratio": row.params / dense["params"],
        "seconds": row.seconds,
        "failure": row.failure,
    }


def describe_progress(asked: int, generation: int, problem: Problem, store: Store) -> dict[str, Any]:
    """What is reported of where a search stood that goes on."""
    best = min(select_evaluated(store.read_evaluations()), key=lambda row: (row.loss, row.id), default=None)
    return {
        "evaluations": asked,
        "generation": generation,
        "best": None if best is None else describe_row(best, problem),
        "hypervolumes": [item["summary"]["hypervolume"] for item in store.read_generations()],
        "tells_error": problem.has_error,
    }


def record_generation(generation: int, wall: float, problem: Problem, store: Store, report: Reporter) -> None:
    """Record and report what a generation found; in a steady search, what came back since the last one."""
    rows = store.read_evaluations()
    mine = [row for row in rows if row.generation == generation - 1 and row.origin != DENSE]
    valid = select_evaluated(rows)
    if mine and not valid:
        raise EvaluateError(
            f"none of the first {len(mine)} networks could be judged, the last because: {mine[-1].failure}; see to "
            "that, and search anew"
        )
    summary: dict[str, Any] = {
        "front": len(select_front(valid, problem.compute_costs)),
        "hypervolume": compute_hypervolume(valid, problem.compute_costs),
        "best_loss": min((row.loss for row in valid if row.loss is not None), default=None),
    }
    store.add_generation(generation, len(mine), sum(row.seconds for row in mine), wall, summary)
    done = sum(row.origin != DENSE for row in rows)
    report("generation", {"generation": generation, "evaluations": done, "seconds": wall, **summary})


def warn_of_baselines(count: int, evaluations: int, report: Reporter) -> None:
    """Say so where the baselines leave the search little to do."""
    if 2 * count > evaluations:
        text = f"{count} baselines take most of {evaluations} evaluations: name fewer in criteria.pool"
        report("warning", {"text": text})


def warn_of_exhaustion(problem: Problem, report: Reporter) -> None:
    """Warn that every reachable cut was evaluated, unless the method has a fixed set of networks."""
    if not get_method(problem.config.method).traits.fixed_networks:
        report("warning", {"text": "the search space is used up: every reachable cut has been evaluated"})
