"""The search, on one screen: ask, evaluate, tell, with a commit to the store in between.

This is the generational schedule; `steady.py` has the one without generations.
"""

import time
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from blendsearch.engine.engine import Engine
from blendsearch.fitness.evaluation import request
from blendsearch.runs.checkpoint import load_checkpoint, save_checkpoint
from blendsearch.runs.directory import Run
from blendsearch.runs.store import Store
from blendsearch.search.finals import finish, keep, measure_reported, promote, test
from blendsearch.search.judging import (
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
from blendsearch.search.measured import keep_trained, with_measured
from blendsearch.search.optimiser import Candidate, Judged, Optimiser
from blendsearch.search.optimisers import optimiser_of, seeds_of
from blendsearch.search.setting import Report, Setting
from blendsearch.search.steady import steadily
from blendsearch.search.stopping import reason_to_stop


def search(run: Run, setting: Setting, engine: Engine, report: Report) -> None:
    """Evolve until the evaluations asked for are done, then finish what was found; continues where a run stands."""
    store = run.store()
    judge_dense(setting, engine, store, report)
    setting = with_measured(run, setting, engine, store, report)
    schedule = steadily if setting.config.search.schedule == "steady" else by_generations
    schedule(run, setting, engine, store, report)
    keep_trained(run, setting, store, report)
    promote(setting, engine, store, report)
    finish(run, setting, engine, store, report)
    test(setting, engine, store, report)
    keep(run, setting, engine, store, report)
    measure_reported(setting, store, report)
    evaluations = max((row.id for row in store.evaluations()), default=0)
    run.finish({"evaluations": evaluations, "generations": len(store.generations())})
    store.close()


def watched(engine: Engine, run: Run, report: Report) -> Report:
    """`report`, heard by `engine` too, which from now on writes its workers' logs into the run directory."""
    engine.watch(run.name, run.logs)

    def both(kind: str, facts: Mapping[str, Any]) -> None:
        engine.heard(kind, facts)
        report(kind, facts)

    return both


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
