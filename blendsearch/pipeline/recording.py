"""What both schedules share: the row an outcome becomes, what an optimiser is told, the record of progress."""

import json
from typing import Any

import numpy as np

from blendsearch.engine.base import Engine
from blendsearch.errors import EvaluateError
from blendsearch.fitness.evaluator import Outcome, Request, request
from blendsearch.pipeline.optimizers.base import Candidate, Judged
from blendsearch.pipeline.problem.problem import Report, Setting
from blendsearch.runs.origin import DENSE
from blendsearch.runs.pareto import front, hypervolume, judged_networks
from blendsearch.runs.records import Evaluation
from blendsearch.runs.store import Store

NOISE = 1e-3
"""Losses of one network that differ by more, of a person's own judgement, are worth a warning."""


def judge_dense(setting: Setting, engine: Engine, store: Store, report: Report) -> None:
    """Judge the dense network on the validation images, as evaluation 0."""
    whole = setting.structure.maps.whole()
    asking = request(whole, "raw", setting.config.seed)
    if all(row.origin != DENSE for row in store.evaluations()):
        outcome = taken_over(store, "raw").get(asking.digest)
        if outcome is None:
            engine.submit(asking)
            (outcome,) = engine.completed()
        candidate = Candidate(setting.decoder.space.equal(), whole, asking.digest, DENSE)
        row = row_of(0, candidate, {}, 0, asking, outcome, setting)
        kept_row(row, outcome, store)
        if outcome.failure:
            report("warning", {"text": f"the dense network could not be judged: {outcome.failure}"})
        known = setting.judged
        if known is not None and not outcome.failure and abs(known - outcome.loss) > NOISE * max(1, abs(known)):
            text = (
                f"one and the same network was judged twice, with losses {known:.4g} and {outcome.loss:.4g}: "
                "evaluate= is noisy, and networks that differ by less cannot be told apart"
            )
            report("warning", {"text": text})
        report("dense", {**facts_of(row, setting), "tells_error": setting.tells_error})


def taken_over(store: Store, fidelity: str) -> dict[str, Outcome]:
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
        for item in store.inherited()
        if item.judged and item.fidelity == fidelity
    }


def row_of(
    number: int,
    candidate: Candidate,
    described: dict[str, Any],
    generation: int,
    asking: Request,
    outcome: Outcome,
    setting: Setting,
) -> Evaluation:
    """What the store keeps of `outcome`; `described` is the candidate's genome for a reader."""
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


def kept_row(row: Evaluation, outcome: Outcome, store: Store, asked: int = 0) -> None:
    """Store `row` for good, and what else a person's own judgement said; see `Store.add` for `asked`."""
    store.add(row, asked)
    if outcome.further:
        store.add_further(row.digest, row.fidelity, outcome.further)


def judged_of(candidate: Candidate, row: Evaluation, setting: Setting) -> Judged | None:
    """What an optimiser is told; None where there are no numbers."""
    if row.failure:
        return None
    return Judged(candidate.genome, setting.objectives(row), row.digest, candidate.origin)


def facts_of(row: Evaluation, setting: Setting) -> dict[str, Any]:
    """What is reported of an evaluation."""
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


def stand_of(asked: int, generation: int, setting: Setting, store: Store) -> dict[str, Any]:
    """What is reported of where a search stood that goes on."""
    best = min(judged_networks(store.evaluations()), key=lambda row: (row.loss, row.id), default=None)
    return {
        "evaluations": asked,
        "generation": generation,
        "best": None if best is None else facts_of(best, setting),
        "hypervolumes": [item["summary"]["hypervolume"] for item in store.generations()],
        "tells_error": setting.tells_error,
    }


def conclude(generation: int, wall: float, setting: Setting, store: Store, report: Report) -> None:
    """Record and report what a generation found; in a steady search, what came back since the last one."""
    rows = store.evaluations()
    mine = [row for row in rows if row.generation == generation - 1 and row.origin != DENSE]
    valid = judged_networks(rows)
    if mine and not valid:
        raise EvaluateError(
            f"none of the first {len(mine)} networks could be judged, the last because: {mine[-1].failure}; see to "
            "that, and search anew"
        )
    summary: dict[str, Any] = {
        "front": len(front(valid, setting.costs)),
        "hypervolume": hypervolume(valid, setting.costs),
        "best_loss": min((row.loss for row in valid if row.loss is not None), default=None),
    }
    store.add_generation(generation, len(mine), sum(row.seconds for row in mine), wall, summary)
    done = sum(row.origin != DENSE for row in rows)
    report("generation", {"generation": generation, "evaluations": done, "seconds": wall, **summary})


def warn_of_baselines(count: int, evaluations: int, report: Report) -> None:
    """Say so where the baselines leave the search little to do."""
    if 2 * count > evaluations:
        text = f"{count} baselines take most of {evaluations} evaluations: name fewer in criteria.pool"
        report("warning", {"text": text})


def warn_of_exhaustion(setting: Setting, report: Report) -> None:
    """Say that there is nothing left to ask for; a method that brings its networks along need not be told."""
    if setting.config.method not in ("torch-pruning", "depthwise", "sensitivity", "derived", "tailored"):
        report("warning", {"text": "the search space is used up: every reachable cut has been evaluated"})
