"""Staged, pressed cutting against one cut before training, at equal epochs and at equal training MACs.

    python experiments/training/staged.py --work DIR [--tier small|full] [--seeds 5] [--epochs 12]

One cut (uniform, by L1) of a ResNet-20 (small tier) or ResNet-56 (full tier) on CIFAR-10, at 1/11.4 of its MACs. Each
seed trains it by four arms: `one cut`; `staged`; `one cut, equal macs`, with as many more epochs as the larger networks
of the early stages cost; and `scratch`, the same architecture from random weights. Accuracies are in percent. Staged
cutting is accepted at +1.0 points at equal epochs and +0.5 points at equal MACs.
"""

import copy
import dataclasses
import time

import numpy as np
import torch
from setting import Results, compare_paired, load_problem, make_cut, parse_arguments

from blendsearch.fitness.evaluator import make_request
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.structure.groups import Cut
from blendsearch.training.schedule import Schedule
from blendsearch.training.staged import ONE_CUT, Staging, make_stage_plan
from blendsearch.training.store import FolderStore

RATE, STAGING = 0.05, Staging(stages=4)
DEPTHS = {"small": 20, "full": 56}
ACCEPTED = {"one cut": 1.0, "one cut, equal macs": 0.5}


def main() -> None:
    arguments = parse_arguments(__doc__.splitlines()[0], __file__, network="", dataset="cifar10", macs=1 / 11.4)
    arguments = dataclasses.replace(
        arguments, network=arguments.network or f"cifar_resnet:{DEPTHS[arguments.tier]}", macs=round(arguments.macs, 4)
    )
    problem = load_problem(arguments)
    cut = make_cut(problem)
    ratio = compute_macs_ratio(problem, cut, arguments.epochs)
    results = Results(arguments, rate=RATE, staging=dataclasses.asdict(STAGING), training_macs_ratio=round(ratio, 3))
    evaluator = dataclasses.replace(problem.evaluator, store=FolderStore(arguments.work / f"store-{arguments.tier}"))
    schedule = Schedule(arguments.epochs, RATE, warmup=0.05)
    longer = dataclasses.replace(schedule, epochs=arguments.epochs * ratio)

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
        "staged": (schedule, STAGING),
        "one cut, equal macs": (longer, ONE_CUT),
        "scratch": (schedule, ONE_CUT),
    }
    for seed in range(arguments.seeds):
        for arm in arms:
            run(arm, seed)
        results.write(**summarize(results, list(arms)))


def compute_macs_ratio(problem: Problem, cut: Cut, epochs: float) -> float:
    """Return the training MACs of the stages over those of the final network in all epochs."""
    evaluator, maps = problem.evaluator, problem.structure.maps
    plan = make_stage_plan(problem.model, maps, cut, problem.splits, evaluator.device, STAGING)
    bounds = STAGING.compute_bounds(Schedule(epochs, RATE).count_steps(len(problem.splits.train)))
    macs = np.array([float(problem.structure.oracle.compute_ratio("macs", maps.count_kept(one))) for one in plan.cuts])
    print(f"macs of the stages: {', '.join(f'{ratio:.1%}' for ratio in macs)}", flush=True)
    return float((np.diff(bounds) * macs).sum() / (bounds[-1] * macs[-1]))


def make_random_model(problem: Problem, seed: int) -> torch.nn.Module:
    """Copy the dense network with new random weights."""
    model = copy.deepcopy(problem.model)
    torch.manual_seed(seed)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return model.eval()


def summarize(results: Results, arms: list[str]) -> dict[str, object]:
    """Compare staged cutting with the other arms, paired over the seeds that have both."""
    found = {arm: {row["seed"]: row for row in results.rows if row["arm"] == arm} for arm in arms}
    summary: dict[str, object] = {}
    for arm in (arm for arm in arms if arm != "staged"):
        seeds = sorted(found["staged"].keys() & found[arm].keys())
        for split in ("val", "test"):
            pairs = [[found[name][seed][split] for seed in seeds] for name in ("staged", arm)]
            summary[f"{split} over {arm}"] = compare_paired(*pairs)
    means = {arm: np.mean([row["test"] for row in rows.values()]) for arm, rows in found.items()}
    accepted = all(means["staged"] - means[arm] >= least for arm, least in ACCEPTED.items())
    return summary | {"means": {arm: round(float(mean), 2) for arm, mean in means.items()}, "accepted": accepted}


if __name__ == "__main__":
    main()
