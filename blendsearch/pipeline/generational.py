"""The generational schedule: ask for a generation, evaluate all of it, tell."""

import time
from collections.abc import Sequence
from itertools import chain

from blendsearch.engine.base import Engine
from blendsearch.fitness.evaluator import make_request
from blendsearch.pipeline.methods.method import make_search_optimizer, make_seeds
from blendsearch.pipeline.optimizers.base import Candidate, CandidateResult, Optimizer
from blendsearch.pipeline.problem.problem import Problem, Reporter
from blendsearch.pipeline.recording import (
    describe_progress,
    describe_row,
    evaluate_dense,
    load_inherited_outcomes,
    make_candidate_result,
    make_row,
    record_generation,
    store_row,
    warn_of_baselines,
    warn_of_exhaustion,
)
from blendsearch.pipeline.stopping import find_stop_reason
from blendsearch.runs.checkpoint import load_checkpoint, save_checkpoint
from blendsearch.runs.run import Run
from blendsearch.runs.store import Store


def run_generational(run: Run, problem: Problem, engine: Engine, store: Store, report: Reporter) -> None:
    """Ask for a generation, evaluate all of it, tell: how many workers there are, and how fast, changes nothing."""
    config = problem.config.search
    optimizer = make_search_optimizer(problem)
    state = load_checkpoint(run.checkpoints, lambda text: report("warning", {"text": text}))
    generation, asked = 0, 0
    if state is not None:
        generation, asked = state["generation"], state["asked"]
        optimizer.load_state_dict(state["evolution"])
        report("resumed", describe_progress(asked, generation, problem, store))
    evaluate_dense(problem, engine, store, report)

    reason = find_stop_reason(config, store.read_generations())
    while asked < config.evaluations and reason is None:
        start = time.perf_counter()
        left = config.evaluations - asked
        if generation == 0:
            seeds = make_seeds(problem, store, optimizer)
            warn_of_baselines(len(seeds), config.evaluations, report)
            candidates = optimizer.ask_first(seeds, left)
        else:
            known = {item.digest for item in store.read_evaluations() if item.id <= asked}
            candidates = optimizer.ask(min(left, config.population), known)
        if not candidates:
            warn_of_exhaustion(problem, report)
            break
        results = evaluate(candidates, optimizer, generation, asked, problem, engine, store, report)
        optimizer.tell([item for item in results if item is not None])
        generation, asked = generation + 1, asked + len(candidates)
        # before the checkpoint: what is repeated after a crash in between records the same
        record_generation(generation, time.perf_counter() - start, problem, store, report)
        save_checkpoint(
            run.checkpoints,
            generation,
            {"generation": generation, "asked": asked, "evolution": optimizer.state_dict()},
        )
        reason = find_stop_reason(config, store.read_generations())
    if reason is not None:
        report("stopped", {"reason": reason})


def evaluate(
    candidates: Sequence[Candidate],
    optimizer: Optimizer,
    generation: int,
    asked: int,
    problem: Problem,
    engine: Engine,
    store: Store,
    report: Reporter,
) -> list[CandidateResult | None]:
    """Objectives of `candidates` in their order, None for those that failed; each is stored as soon as it is there.

    What the store already holds (from before a crash, or taken over by a fork) is not evaluated again.
    """
    fidelity = problem.config.fitness.fidelity
    rows = {item.digest: item for item in store.read_evaluations() if item.fidelity == fidelity}
    numbered = {candidate.digest: (asked + 1 + place, candidate) for place, candidate in enumerate(candidates)}
    requests = {item.digest: make_request(item.cut, fidelity, problem.config.seed) for item in candidates}
    missing = [digest for digest in requests if digest not in rows]
    known = load_inherited_outcomes(store, fidelity)
    about = {"generation": generation, "before": asked, "candidates": len(candidates)}
    report("asked", {**about, "cached": len(requests) - len(missing), "workers": engine.workers})
    for digest in missing:
        if digest not in known:
            engine.submit(requests[digest])
    for outcome in chain((known[digest] for digest in missing if digest in known), engine.iter_outcomes()):
        number, candidate = numbered[outcome.digest]
        genome_values = optimizer.serialize_genome(candidate.genome)
        row = make_row(number, candidate, genome_values, generation, requests[outcome.digest], outcome, problem)
        store_row(row, outcome, store, asked + len(candidates))
        rows[outcome.digest] = row
        report("evaluated", {**describe_row(row, problem), "busy": engine.busy_workers, "workers": engine.workers})
    return [make_candidate_result(candidate, rows[candidate.digest], problem) for candidate in candidates]
