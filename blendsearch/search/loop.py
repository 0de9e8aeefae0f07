"""The search, on one screen: ask, evaluate, tell, with a commit to the store in between."""

import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from blendsearch.engine.engine import Engine
from blendsearch.fitness.evaluation import Outcome, request
from blendsearch.runs.checkpoint import load_checkpoint, save_checkpoint
from blendsearch.runs.directory import Run
from blendsearch.runs.store import Evaluation, Store, TestResult
from blendsearch.search.baselines import baselines
from blendsearch.search.evolution import Candidate, Evolution, Judged
from blendsearch.search.front import DENSE, best_baselines, front, hypervolume, judged_networks
from blendsearch.search.setting import Report, Setting
from blendsearch.structure.groups import unpacked


def search(run: Run, setting: Setting, engine: Engine, report: Report) -> None:
    """Evolve until the evaluations asked for are done, then test what was found; continues where a run stands."""
    config = setting.config.search
    store = run.store()
    evolution = Evolution(
        setting.decoder.space,
        setting.decoder.cut,
        config.population,
        config.crossover,
        config.mutation,
        np.random.default_rng([setting.config.seed, 2]),
    )
    state = load_checkpoint(run.checkpoints, lambda text: report("warning", {"text": text}))
    generation, asked = 0, 0
    if state is not None:
        generation, asked = state["generation"], state["asked"]
        evolution.restore(state["evolution"])
    judge_dense(setting, engine, store, report)

    while asked < config.evaluations:
        start = time.perf_counter()
        left = config.evaluations - asked
        if generation == 0:
            seeds = baselines(setting.decoder, config.anchors)
            if 2 * len(seeds) > config.evaluations:
                text = (
                    f"{len(seeds)} baselines take most of {config.evaluations} evaluations: name fewer in criteria.pool"
                )
                report("warning", {"text": text})
            # a quarter of newcomers beside the seeds, so that evolution has more than what was known before
            candidates = evolution.first(seeds, min(left, max(config.population, len(seeds) + config.population // 4)))
        else:
            known = {item.digest for item in store.evaluations() if item.id <= asked}
            candidates = evolution.ask(min(left, config.population), known)
        if not candidates:
            report("warning", {"text": "the search space is used up: every reachable cut has been evaluated"})
            break
        judged = evaluate(candidates, generation, asked, setting, engine, store, report)
        evolution.tell([item for item in judged if item is not None])
        generation, asked = generation + 1, asked + len(candidates)
        save_checkpoint(
            run.checkpoints,
            generation,
            {"generation": generation, "asked": asked, "evolution": evolution.state()},
        )
        wall = time.perf_counter() - start
        conclude(generation, wall, setting, store, report)

    test(setting, engine, store, report)
    run.finish({"evaluations": asked, "generations": generation})
    store.close()


def evaluate(
    candidates: Sequence[Candidate],
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
    for digest, asking in requests.items():
        if digest not in rows:
            engine.submit(asking)
    for outcome in engine.completed():
        number, candidate = numbered[outcome.digest]
        row = _row(number, candidate, generation, requests[outcome.digest], outcome, setting)
        store.add(row)
        rows[outcome.digest] = row
        report("evaluated", _facts(row, setting))
    return [_judged(candidate, rows[candidate.digest], setting) for candidate in candidates]


def conclude(generation: int, wall: float, setting: Setting, store: Store, report: Report) -> None:
    """Record and report what a generation found."""
    rows = store.evaluations()
    mine = [row for row in rows if row.generation == generation - 1 and row.origin != DENSE]
    valid = judged_networks(rows)
    summary: dict[str, Any] = {
        "front": len(front(valid, setting.decoder.spans)),
        "hypervolume": hypervolume(valid, setting.structure.oracle.dense["macs"]),
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
            row = _row(0, Candidate(space.equal(), whole, asking.digest, DENSE), 0, asking, outcome, setting)
            store.add(row)
            report("dense", _facts(row, setting))


def test(setting: Setting, engine: Engine, store: Store, report: Report) -> None:
    """The one look at the test images: the dense network, the best baselines, and the front."""
    rows = store.evaluations()
    done = store.tests()
    valid = judged_networks(rows)
    subjects = {row.digest: row for row in rows if row.origin == DENSE}
    for row in [*best_baselines(valid), *front(valid, setting.decoder.spans)]:
        subjects[row.digest] = row
    for digest, row in subjects.items():
        if digest not in done:
            cut = unpacked(row.cut, setting.structure.maps.channels)
            engine.submit(request(cut, row.fidelity, setting.config.seed, "test"))
    for outcome in engine.completed():
        if outcome.failure:
            report("warning", {"text": f"testing {outcome.digest[:8]} failed: {outcome.failure}"})
        else:
            store.add_test(outcome.digest, TestResult(outcome.loss, outcome.error))
            report("tested", {"digest": outcome.digest, "done": len(store.tests()), "of": len(subjects)})


def _row(
    number: int, candidate: Candidate, generation: int, asking: Any, outcome: Outcome, setting: Setting
) -> Evaluation:
    counts = setting.structure.maps.counts(candidate.cut)
    oracle = setting.structure.oracle
    genome = {
        "choice": candidate.genome.choice.tolist(),
        "factor": candidate.genome.factor.tolist(),
        "share": candidate.genome.share.tolist(),
        "target": float(candidate.genome.target),
    }
    return Evaluation(
        id=number,
        digest=candidate.digest,
        cut=asking.cut,
        fidelity=asking.fidelity,
        seed=asking.seed,
        generation=generation,
        origin=candidate.origin,
        genome=json.dumps(genome),
        macs=int(oracle.cost("macs", counts)),
        params=int(oracle.cost("params", counts)),
        loss=None if outcome.failure else outcome.loss,
        error=None if outcome.failure else outcome.error,
        seconds=outcome.seconds,
        failure=outcome.failure,
    )


def _judged(candidate: Candidate, row: Evaluation, setting: Setting) -> Judged | None:
    """What evolution minimises: loss and error at one budget, loss and MACs where budgets span a range."""
    if row.failure or row.loss is None or row.error is None:
        return None
    second = row.macs / setting.structure.oracle.dense["macs"] if setting.decoder.spans else row.error
    return Judged(candidate.genome, (row.loss, second), row.digest)


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
