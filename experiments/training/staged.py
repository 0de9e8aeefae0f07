"""Staged, pressed cutting against one cut before training, at equal epochs and at equal training MACs.

    python experiments/training/staged.py --work DIR [--tier small|full] [--seeds 5] [--epochs 12] [--only ARM;ARM]

One cut (uniform, by L1) of a ResNet-20 (small tier) or ResNet-56 (full tier) on CIFAR-10, at 1/11.4 of its MACs. Each
seed trains it by five arms: `one cut`; `staged`; `staged, long press`, where channels decay over whole stages and the
final network has three quarters of the epochs; `one cut, equal macs`, with as many more epochs as the larger networks
of the early stages of `staged` cost; and `scratch`, the same architecture from random weights. Accuracies are in
percent. Staged cutting is accepted at +1.0 points at equal epochs and +0.5 points at equal MACs.
"""

import dataclasses
import time

import numpy as np
from setting import Results, compare_paired, load_problem, make_cut, make_random_model, parse_arguments

from blendsearch.fitness.evaluator import make_request
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.structure.groups import Cut
from blendsearch.training.schedule import Schedule
from blendsearch.training.staged import ONE_CUT, Staging, make_stage_plan
from blendsearch.training.training_store import FolderStore

RATE = 0.05
STAGINGS = {"staged": Staging(4), "staged, long press": Staging(4, last=0.75, press=1.0, power=8.0)}
DEPTHS = {"small": 20, "full": 56}
ACCEPTED = {"one cut": 1.0, "one cut, equal macs": 0.5}


def main() -> None:
    arguments = parse_arguments(__doc__.splitlines()[0], __file__, network="", dataset="cifar10", macs=1 / 11.4)
    arguments = dataclasses.replace(
        arguments, network=arguments.network or f"cifar_resnet:{DEPTHS[arguments.tier]}", macs=round(arguments.macs, 4)
    )
    problem = load_problem(arguments)
    cut = make_cut(problem)
    ratios = {arm: compute_macs_ratio(problem, cut, arguments.epochs, staging) for arm, staging in STAGINGS.items()}
    stagings = {arm: dataclasses.asdict(staging) for arm, staging in STAGINGS.items()}
    results = Results(arguments, rate=RATE, stagings=stagings, training_macs_ratios=ratios)
    evaluator = dataclasses.replace(problem.evaluator, store=FolderStore(arguments.work / f"store-{arguments.tier}"))
    schedule = Schedule(arguments.epochs, RATE, warmup=0.05)
    longer = dataclasses.replace(schedule, epochs=arguments.epochs * ratios["staged"])

    def run(arm: str, seed: int) -> None:
        if results.has(arm=arm, seed=seed):
            return
        schedule, staging = arms[arm]
        recipe = dataclasses.replace(evaluator.recipe, final=schedule, staging=staging)
        used = dataclasses.replace(evaluator, recipe=recipe)
        if arm == "scratch":
            used = dataclasses.replace(used, model=make_random_model(problem, seed), refitter=None)
        request = make_request(cut, "final", seed, "both", repeat=list(arms).index(arm))
        start = time.process_time()
        outcome = used.evaluate(request)
        assert outcome.test is not None, outcome.failure
        results.add(
            arm=arm,
            seed=seed,
            epochs=round(schedule.epochs, 2),
            val=round(100 - 100 * outcome.error, 2),
            test=round(100 - 100 * outcome.test[1], 2),
            processor_seconds=round(time.process_time() - start, 1),
        )
        evaluator.store.delete(request.key)

    arms = {
        "one cut": (schedule, ONE_CUT),
        **{arm: (schedule, staging) for arm, staging in STAGINGS.items()},
        "one cut, equal macs": (longer, ONE_CUT),
        "scratch": (schedule, ONE_CUT),
    }
    for seed in range(arguments.seeds):
        for arm in arguments.only or arms:
            run(arm, seed)
        results.write(**summarize(results))


def compute_macs_ratio(problem: Problem, cut: Cut, epochs: float, staging: Staging) -> float:
    """Return the training MACs of the stages over those of the final network in all epochs."""
    evaluator, maps = problem.evaluator, problem.structure.maps
    plan = make_stage_plan(problem.model, maps, cut, problem.splits, evaluator.device, staging)
    bounds = staging.compute_bounds(Schedule(epochs, RATE).count_steps(len(problem.splits.train)))
    macs = np.array([float(problem.structure.oracle.compute_ratio("macs", maps.count_kept(one))) for one in plan.cuts])
    return round(float((np.diff(bounds) * macs).sum() / (bounds[-1] * macs[-1])), 3)


def summarize(results: Results) -> dict[str, dict[str, float] | bool]:
    """Compare each kind of staged cutting with the other arms, paired over the seeds."""
    found: dict[str, dict[int, dict]] = {}
    for row in results.rows:
        found.setdefault(row["arm"], {})[row["seed"]] = row
    summary: dict[str, dict[str, float] | bool] = {}
    for staged in STAGINGS.keys() & found.keys():
        for arm in found.keys() - STAGINGS.keys():
            seeds = sorted(found[staged].keys() & found[arm].keys())
            for split in ("val", "test"):
                first, second = ([found[name][seed][split] for seed in seeds] for name in (staged, arm))
                summary[f"{split} {staged} over {arm}"] = compare_paired(first, second)
        means = {arm: summary[f"test {staged} over {arm}"]["mean"] for arm in ACCEPTED if arm in found}
        summary[f"{staged} accepted"] = all(mean >= ACCEPTED[arm] for arm, mean in means.items())
    return dict(sorted(summary.items()))


if __name__ == "__main__":
    main()
