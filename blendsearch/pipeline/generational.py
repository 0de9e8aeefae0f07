"""The generational schedule: ask for a generation, evaluate all of it, tell."""

import time
from collections.abc import Sequence
from itertools import chain

from blendsearch.engine.base import Engine
from blendsearch.fitness.evaluator import request
from blendsearch.pipeline.methods.blended import optimiser_of, seeds_of
from blendsearch.pipeline.optimizers.base import Candidate, Judged, Optimiser
from blendsearch.pipeline.problem.problem import Report, Setting
from blendsearch.pipeline.recording import (
    conclude,
    facts_of,
    judge_dense,
    judged_of,
    kept_row,
    row_of,
    stand_of,
    taken_over,
    warn_of_baselines,
    warn_of_exhaustion,
)
from blendsearch.pipeline.stopping import reason_to_stop
from blendsearch.runs.checkpoint import load_checkpoint, save_checkpoint
from blendsearch.runs.run import Run
from blendsearch.runs.store import Store


def by_generations(run: Run, setting: Setting, engine: Engine, store: Store, report: Report) -> None:
    """Ask for a generation, evaluate all of it, tell: how many workers there are, and how fast, changes nothing."""
    config = setting.config.search
    optimiser = optimiser_of(setting)
    state = load_checkpoint(run.checkpoints, lambda text: report("warning", {"text": text}))
    generation, asked = 0, 0
    if state is not None:
        generation, asked = state["generation"], state["asked"]
        optimiser.restore(state["evolution"])
        report("resumed", stand_of(asked, generation, setting, store))
    judge_dense(setting, engine, store, report)

    reason = reason_to_stop(config, store.generations())
    while asked < config.evaluations and reason is None:
        start = time.perf_counter()
        left = config.evaluations - asked
        if generation == 0:
            seeds = seeds_of(setting, store, optimiser)
            warn_of_baselines(len(seeds), config.evaluations, report)
            candidates = optimiser.first(seeds, left)
        else:
            known = {item.digest for item in store.evaluations() if item.id <= asked}
            candidates = optimiser.ask(min(left, config.population), known)
        if not candidates:
            warn_of_exhaustion(setting, report)
            break
        judged = evaluate(candidates, optimiser, generation, asked, setting, engine, store, report)
        optimiser.tell([item for item in judged if item is not None])
        generation, asked = generation + 1, asked + len(candidates)
        # before the checkpoint: what is repeated after a crash in between records the same
        conclude(generation, time.perf_counter() - start, setting, store, report)
        save_checkpoint(
            run.checkpoints,
            generation,
            {"generation": generation, "asked": asked, "evolution": optimiser.state()},
        )
        reason = reason_to_stop(config, store.generations())
    if reason is not None:
        report("stopped", {"reason": reason})


def evaluate(
    candidates: Sequence[Candidate],
    optimiser: Optimiser,
    generation: int,
    asked: int,
    setting: Setting,
    engine: Engine,
    store: Store,
    report: Report,
) -> list[Judged | None]:
    """Objectives of `candidates` in their order, None for those that failed; each is stored as soon as it is there.

    What the store already holds (from before a crash, or taken over by a fork) is not evaluated again.
    """
    fidelity = setting.config.fitness.fidelity
    rows = {item.digest: item for item in store.evaluations() if item.fidelity == fidelity}
    numbered = {candidate.digest: (asked + 1 + place, candidate) for place, candidate in enumerate(candidates)}
    requests = {item.digest: request(item.cut, fidelity, setting.config.seed) for item in candidates}
    missing = [digest for digest in requests if digest not in rows]
    known = taken_over(store, fidelity)
    about = {"generation": generation, "before": asked, "candidates": len(candidates)}
    report("asked", {**about, "cached": len(requests) - len(missing), "workers": engine.workers})
    for digest in missing:
        if digest not in known:
            engine.submit(requests[digest])
    for outcome in chain((known[digest] for digest in missing if digest in known), engine.completed()):
        number, candidate = numbered[outcome.digest]
        described = optimiser.described(candidate.genome)
        row = row_of(number, candidate, described, generation, requests[outcome.digest], outcome, setting)
        kept_row(row, outcome, store, asked + len(candidates))
        rows[outcome.digest] = row
        report("evaluated", {**facts_of(row, setting), "busy": engine.busy, "workers": engine.workers})
    return [judged_of(candidate, rows[candidate.digest], setting) for candidate in candidates]
