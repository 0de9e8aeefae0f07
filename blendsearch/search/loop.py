"""The search, on one screen: ask, evaluate, tell, with a commit to the store in between."""

import json
import time
from collections.abc import Sequence
from typing import Any

from blendsearch.engine.engine import Engine
from blendsearch.fitness.evaluation import Outcome, Request, request
from blendsearch.runs.checkpoint import load_checkpoint, save_checkpoint
from blendsearch.runs.directory import Run
from blendsearch.runs.store import Evaluation, Store
from blendsearch.search.finals import finish, keep, measure_reported, promote, test
from blendsearch.search.front import DENSE, front, hypervolume, judged_networks
from blendsearch.search.optimiser import Candidate, Judged, Optimiser
from blendsearch.search.optimisers import optimiser_of, seeds_of
from blendsearch.search.setting import Report, Setting
from blendsearch.search.stopping import reason_to_stop


def search(run: Run, setting: Setting, engine: Engine, report: Report) -> None:
    """Evolve until the evaluations asked for are done, then finish what was found; continues where a run stands."""
    config = setting.config.search
    store = run.store()
    optimiser = optimiser_of(setting)
    state = load_checkpoint(run.checkpoints, lambda text: report("warning", {"text": text}))
    generation, asked = 0, 0
    if state is not None:
        generation, asked = state["generation"], state["asked"]
        optimiser.restore(state["evolution"])
        report("resumed", _stand(asked, generation, setting, store))
    judge_dense(setting, engine, store, report)

    while asked < config.evaluations:
        start = time.perf_counter()
        left = config.evaluations - asked
        if generation == 0:
            seeds = seeds_of(setting)
            if 2 * len(seeds) > config.evaluations:
                text = (
                    f"{len(seeds)} baselines take most of {config.evaluations} evaluations: name fewer in criteria.pool"
                )
                report("warning", {"text": text})
            candidates = optimiser.first(seeds, left)
        else:
            known = {item.digest for item in store.evaluations() if item.id <= asked}
            candidates = optimiser.ask(min(left, config.population), known)
        if not candidates:
            if setting.config.method != "torch-pruning":
                report("warning", {"text": "the search space is used up: every reachable cut has been evaluated"})
            break
        judged = evaluate(candidates, optimiser, generation, asked, setting, engine, store, report)
        optimiser.tell([item for item in judged if item is not None])
        generation, asked = generation + 1, asked + len(candidates)
        save_checkpoint(
            run.checkpoints,
            generation,
            {"generation": generation, "asked": asked, "evolution": optimiser.state()},
        )
        wall = time.perf_counter() - start
        conclude(generation, wall, setting, store, report)
        if (reason := reason_to_stop(config, store.generations())) is not None:
            report("stopped", {"reason": reason})
            break

    promote(setting, engine, store, report)
    finish(run, setting, engine, store, report)
    test(setting, engine, store, report)
    keep(run, setting, engine, store, report)
    measure_reported(setting, store, report)
    run.finish({"evaluations": asked, "generations": generation})
    store.close()


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

    What the store already holds (from before a crash) is not evaluated again.
    """
    fidelity = setting.config.fitness.fidelity
    rows = {item.digest: item for item in store.evaluations() if item.fidelity == fidelity}
    numbered = {candidate.digest: (asked + 1 + place, candidate) for place, candidate in enumerate(candidates)}
    requests = {item.digest: request(item.cut, fidelity, setting.config.seed) for item in candidates}
    cached = sum(digest in rows for digest in requests)
    about = {"generation": generation, "before": asked, "candidates": len(candidates), "cached": cached}
    report("asked", {**about, "workers": engine.workers})
    for digest, asking in requests.items():
        if digest not in rows:
            engine.submit(asking)
    for outcome in engine.completed():
        number, candidate = numbered[outcome.digest]
        described = optimiser.described(candidate.genome)
        row = _row(number, candidate, described, generation, requests[outcome.digest], outcome, setting)
        store.add(row)
        if outcome.further:
            store.add_further(row.digest, fidelity, outcome.further)
        rows[outcome.digest] = row
        report("evaluated", {**_facts(row, setting), "busy": engine.busy, "workers": engine.workers})
    return [_judged(candidate, rows[candidate.digest], setting) for candidate in candidates]


def conclude(generation: int, wall: float, setting: Setting, store: Store, report: Report) -> None:
    """Record and report what a generation found."""
    rows = store.evaluations()
    mine = [row for row in rows if row.generation == generation - 1 and row.origin != DENSE]
    valid = judged_networks(rows)
    summary: dict[str, Any] = {
        "front": len(front(valid, setting.costs)),
        "hypervolume": hypervolume(valid, setting.costs),
        "best_loss": min((row.loss for row in valid if row.loss is not None), default=None),
    }
    store.add_generation(generation, len(mine), sum(row.seconds for row in mine), wall, summary)
    done = sum(row.origin != DENSE for row in rows)
    report("generation", {"generation": generation, "evaluations": done, "seconds": wall, **summary})


def judge_dense(setting: Setting, engine: Engine, store: Store, report: Report) -> None:
    """Judge the dense network on the validation images, as evaluation 0."""
    whole = setting.structure.maps.whole()
    space = setting.decoder.space
    asking = request(whole, "raw", setting.config.seed)
    if all(row.origin != DENSE for row in store.evaluations()):
        engine.submit(asking)
        for outcome in engine.completed():
            row = _row(0, Candidate(space.equal(), whole, asking.digest, DENSE), {}, 0, asking, outcome, setting)
            store.add(row)
            if outcome.further:
                store.add_further(row.digest, row.fidelity, outcome.further)
            if outcome.failure:
                report("warning", {"text": f"the dense network could not be judged: {outcome.failure}"})
            report("dense", {**_facts(row, setting), "tells_error": setting.tells_error})


def _row(
    number: int,
    candidate: Candidate,
    described: dict[str, Any],
    generation: int,
    asking: Request,
    outcome: Outcome,
    setting: Setting,
) -> Evaluation:
    counts = setting.structure.maps.counts(candidate.cut)
    oracle = setting.structure.oracle
    return Evaluation(
        id=number,
        digest=candidate.digest,
        cut=asking.cut,
        fidelity=asking.fidelity,
        seed=asking.seed,
        generation=generation,
        origin=candidate.origin,
        genome=json.dumps(described),
        macs=int(oracle.cost("macs", counts)),
        params=int(oracle.cost("params", counts)),
        loss=None if outcome.failure else outcome.loss,
        error=None if outcome.failure else outcome.error,
        seconds=outcome.seconds,
        failure=outcome.failure,
    )


def _stand(asked: int, generation: int, setting: Setting, store: Store) -> dict[str, Any]:
    """Where a search stood that goes on."""
    best = min(judged_networks(store.evaluations()), key=lambda row: (row.loss, row.id), default=None)
    return {
        "evaluations": asked,
        "generation": generation,
        "best": None if best is None else _facts(best, setting),
        "hypervolumes": [item["summary"]["hypervolume"] for item in store.generations()],
        "tells_error": setting.tells_error,
    }


def _judged(candidate: Candidate, row: Evaluation, setting: Setting) -> Judged | None:
    if row.failure:
        return None
    return Judged(candidate.genome, setting.objectives(row), row.digest, candidate.origin)


def _facts(row: Evaluation, setting: Setting) -> dict[str, Any]:
    dense = setting.structure.oracle.dense
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
