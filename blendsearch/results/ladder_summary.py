"""The ladder of a run, its cost, and how far its finals are apart."""

from collections.abc import Iterable, Mapping, Sequence
from math import sqrt

from blendsearch.results.ladder_records import FinalsNoise, LadderRecord, RungRecord, SearchCost
from blendsearch.results.records import FinalRecord
from blendsearch.runs.config.ladder_plan import LadderPlan, make_plan
from blendsearch.runs.origin import DENSE
from blendsearch.runs.records import Evaluation, Promotion, RungResult
from blendsearch.runs.run import Run
from blendsearch.runs.store import Store
from blendsearch.training.training_cost import PASSES

NOISE_ERRORS = 2
"""Standard errors of an accuracy within which differences count as noise."""

RATE_PROBES = "probe "
"""Prefix of the fidelities of the trainings that find the learning rate."""


def read_ladder(run: Run, store: Store) -> LadderRecord | None:
    """Read the ladder of `run`; None where nothing was trained on one."""
    results = store.read_rungs()
    if not results:
        return None
    plan = make_plan(run.config.ladder, run.config.finals.count_picks())
    rungs = []
    for rung, share in enumerate(plan.shares, 1):
        failures = [bool(item.failure) for item in results if item.rung == rung]
        rungs.append(RungRecord(rung=rung, share=share, networks=failures.count(False), failed=failures.count(True)))
    return LadderRecord(rungs=tuple(rungs), cost=_compute_cost(run, store, results, plan))


def _compute_cost(run: Run, store: Store, results: Sequence[RungResult], plan: LadderPlan) -> SearchCost:
    rows = store.read_bare_evaluations()
    macs = {row.digest: row.macs for row in rows}
    epochs = run.config.finals.tuning
    whole = PASSES * _count_images(run, epochs.images) * epochs.epochs
    one = whole * max(macs[item.digest] for item in results)
    trained = sum(item.cost for item in results)
    finals = sum(item.cost for item in results if item.rung == plan.last)
    return SearchCost(
        evaluations=compute_evaluation_cost(run, rows) + compute_promotion_cost(run, rows, store.read_promotions()),
        probes=_compute_probe_cost(run, store, macs),
        rungs=trained - finals,
        finals=finals,
        further_seeds=sum(whole * macs[item.digest] for item in store.read_finals() if item.repeat),
        one_training=one,
        trainings=trained / one if one else 0.0,
        limit=run.config.ladder.cost,
    )


def compute_evaluation_cost(run: Run, rows: Iterable[Evaluation]) -> float:
    """Compute the cost of evaluations: passes over validation images, recalibration and short fine-tunes."""
    each = _count_passes(run, run.config.fitness.fidelity, "val")
    return each * sum(row.macs for row in rows if row.origin != DENSE and not row.failure)


def compute_promotion_cost(run: Run, rows: Iterable[Evaluation], promotions: Iterable[Promotion]) -> float:
    """Compute the cost of evaluating promoted networks again."""
    split = run.config.promote.get_split()
    macs = {row.digest: row.macs for row in rows if row.origin != DENSE}
    return sum(_count_passes(run, item.fidelity, split) * macs.get(item.digest, 0) for item in promotions)


def _count_passes(run: Run, fidelity: str, split: str) -> float:
    """Count the forward passes of single images that an evaluation takes."""
    fitness, images = run.config.fitness, run.structure.get("images", {})
    passes = float(images.get(split, 0))
    if fidelity != "raw":
        passes += min(fitness.recalibration_images, images.get("train", 0))
    if fidelity == "tuned":
        passes += PASSES * _count_images(run, fitness.tuning.images) * fitness.tuning.epochs
    return passes


def _compute_probe_cost(run: Run, store: Store, macs: Mapping[str, int]) -> float:
    finals = run.config.finals
    images = PASSES * _count_images(run, finals.tuning.images) * finals.probe.epochs
    return images * sum(macs[item.digest] for item in store.read_probes() if item.fidelity.startswith(RATE_PROBES))


def _count_images(run: Run, limit: int | None) -> int:
    """Count the images of an epoch; 0 for a run that did not record its splits."""
    available = run.structure.get("images", {}).get("train", 0)
    return min(available, limit or available)


def compare_with_noise(run: Run, finals: Sequence[FinalRecord]) -> FinalsNoise | None:
    """Compare the spread of the finals with the standard error of an accuracy; None where it is not known.

    Metrics such as mIoU are no shares of images, and have none.
    """
    accuracies = [item.val_accuracy for item in finals if item.val_accuracy is not None]
    images = run.structure.get("images", {}).get("val", 0)
    counted = "metric" not in run.structure and "evaluate" not in run.structure.get("task", {})
    if len(accuracies) < 2 or not images or not counted:
        return None
    best = max(accuracies)
    error, spread = sqrt(best * (1 - best) / images), best - min(accuracies)
    within = spread <= NOISE_ERRORS * error
    return FinalsNoise(networks=len(accuracies), spread=spread, standard_error=error, is_within=within)


def format_noise(noise: FinalsNoise | None) -> str | None:
    """Describe finals that chance alone may tell apart; None where there are none."""
    if noise is None or not noise.is_within:
        return None
    return (
        f"The {noise.networks} finalists are within noise ({100 * noise.spread:.1f} points of validation accuracy; two "
        f"standard errors are {100 * NOISE_ERRORS * noise.standard_error:.1f}): any of them, take the cheapest."
    )


def format_ladder(ladder: LadderRecord | None) -> str | None:
    """Describe the ladder and its cost in a sentence; None where there is none."""
    if ladder is None:
        return None
    cost = ladder.cost
    steps = ", ".join(f"{item.networks} at {item.share:.0%}" for item in ladder.rungs)
    extra = {"its evaluations": cost.evaluations, "the probe of learning rates": cost.probes}
    if cost.further_seeds:
        extra["further seeds"] = cost.further_seeds
    known = [f"{name} {value / cost.one_training:.2f}" for name, value in extra.items() if cost.one_training]
    beside = f"; in the same unit, {', '.join(known)}" if known else ""
    return (
        f"Networks trained to parts of the final schedule: {steps}. This cost {cost.trainings:.2f} full trainings of "
        f"one network (at most {cost.limit:g}){beside}."
    )
