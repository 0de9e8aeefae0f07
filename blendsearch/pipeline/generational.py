"""The generational schedule: ask for a generation, evaluate all of it, tell the optimizer.

The number and speed of workers do not change the result.
"""

import time
from collections.abc import Sequence
from itertools import chain
from typing import Any, TypedDict

from blendsearch.events import GenerationAsked, StoppedEarly
from blendsearch.fitness.evaluator import make_request
from blendsearch.pipeline.methods.method import make_search_optimizer, make_seeds
from blendsearch.pipeline.optimizers.base import Candidate, CandidateResult, Optimizer, restore_optimizer
from blendsearch.pipeline.problem.session import SearchSession
from blendsearch.pipeline.recording import (
    check_stored,
    describe_progress,
    evaluate_dense,
    load_inherited_outcomes,
    make_candidate_result,
    make_row,
    record_generation,
    report_evaluation,
    store_row,
    warn_of_baselines,
    warn_of_exhaustion,
)
from blendsearch.pipeline.stopping import find_stop_reason
from blendsearch.runs.checkpoint import load_checkpoint, refuse_unfit_state, save_checkpoint
from blendsearch.runs.decoding import check_type


class SearchState(TypedDict):
    """A checkpoint of the search: the next generation, the evaluations before it, and the optimizer's state."""

    generation: int
    asked: int
    evolution: dict[str, Any]


def run_generational(session: SearchSession) -> None:
    """Search generation by generation, from the last checkpoint where there is one."""
    problem, store, checkpoints = session.problem, session.store, session.run.checkpoints
    config, optimizer = problem.config.search, make_search_optimizer(problem)
    state = load_checkpoint(checkpoints, session.warn)
    generation, asked = 0, 0
    if state is not None:
        with refuse_unfit_state(checkpoints):
            check_type(state, SearchState)
            restore_optimizer(optimizer, state["evolution"])
        generation, asked = state["generation"], state["asked"]
        check_stored(asked, generation, session)
        session.report(describe_progress(asked, generation, session))
    evaluate_dense(session)

    reason = find_stop_reason(config, store.read_generations())
    while asked < config.evaluations and reason is None:
        start = time.perf_counter()
        candidates = _ask(optimizer, generation, asked, session)
        if not candidates:
            warn_of_exhaustion(session)
            break
        results = evaluate_generation(candidates, optimizer, generation, asked, session)
        optimizer.tell([item for item in results if item is not None])
        generation, asked = generation + 1, asked + len(candidates)
        # recorded before the checkpoint: after a crash in between, the generation is recorded again with equal values
        record_generation(generation, time.perf_counter() - start, session)
        stand = {"generation": generation, "asked": asked, "evolution": optimizer.state_dict()}
        save_checkpoint(checkpoints, generation, stand)
        reason = find_stop_reason(config, store.read_generations())
    if reason is not None:
        session.report(StoppedEarly(reason=reason))


def _ask(optimizer: Optimizer, generation: int, asked: int, session: SearchSession) -> list[Candidate]:
    """Ask for the candidates of a generation, after `asked` earlier ones."""
    config = session.problem.config.search
    left = config.evaluations - asked
    if generation:
        known = {item.digest for item in session.store.read_evaluations() if item.id <= asked}
        return optimizer.ask(min(left, config.population), known)
    seeds = make_seeds(session.problem, session.store, optimizer)
    warn_of_baselines(len(seeds), session)
    return optimizer.ask_first(seeds, left)


def evaluate_generation(
    candidates: Sequence[Candidate], optimizer: Optimizer, generation: int, asked: int, session: SearchSession
) -> list[CandidateResult | None]:
    """Evaluate `candidates`; return their results in order, None for those that failed.

    Each result is stored as soon as it arrives. Results that the store already holds, from before a crash or inherited
    by a fork, are not evaluated again.
    """
    problem, engine, store = session.problem, session.engine, session.store
    fidelity = problem.config.fitness.fidelity
    rows = {item.digest: item for item in store.read_evaluations() if item.fidelity == fidelity}
    numbered = {candidate.digest: (asked + 1 + place, candidate) for place, candidate in enumerate(candidates)}
    requests = {item.digest: make_request(item.cut, fidelity, problem.config.seed) for item in candidates}
    missing = [digest for digest in requests if digest not in rows]
    known = load_inherited_outcomes(store, fidelity)
    session.report(
        GenerationAsked(
            generation=generation,
            before=asked,
            candidates=len(candidates),
            cached=len(requests) - len(missing),
            workers=engine.workers,
        )
    )
    for digest in missing:
        if digest not in known:
            engine.submit(requests[digest])
    for outcome in chain((known[digest] for digest in missing if digest in known), engine.iter_outcomes()):
        number, candidate = numbered[outcome.digest]
        genome_values = optimizer.serialize_genome(candidate.genome)
        row = make_row(number, candidate, genome_values, generation, requests[outcome.digest], outcome, problem)
        store_row(row, outcome, store, asked + len(candidates))
        rows[outcome.digest] = row
        report_evaluation(row, session)
    return [make_candidate_result(candidate, rows[candidate.digest], problem) for candidate in candidates]
