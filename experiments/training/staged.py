"""Cutting in stages during the training, against one cut before it, at equal epochs and at equal MACs.

    python experiments/training/staged.py --work DIR [--tier small|full] [--seeds 5] [--epochs 12] [--stages 4]

One cut (uniform, by L1) of a network at the budget. Each seed trains it after one cut (refitted), and in stages from
the dense network (`finals.stages`). Stages train wider networks, so that `equal MACs` gives the training after one cut
as many more epochs as the stages cost. Accuracies are in percent. Staged cutting is accepted at 1.0 points at equal
epochs and 0.5 at equal MACs.
"""

import dataclasses
import itertools
import time

from setting import Results, compare_paired, load_problem, make_cut, make_parser, read_arguments

from blendsearch.fitness.evaluator import make_request
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.structure.groups import Cut
from blendsearch.training.recovery import Recipe
from blendsearch.training.schedule import Schedule
from blendsearch.training.staged import Staging, make_stage_plan
from blendsearch.training.training_store import FolderStore

RATE = 0.05


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0], __file__)
    parser.add_argument("--stages", type=int, default=4)
    asked = parser.parse_args()
    staging = Staging(stages=asked.stages)
    del asked.stages
    arguments = read_arguments(asked)
    problem = load_problem(arguments)
    cut = make_cut(problem)
    ratio = compute_cost_ratio(problem, cut, staging)
    facts = {"rate": RATE, "stages": staging.stages, "press": staging.press, "last": staging.last}
    results = Results(arguments, cost_ratio=round(ratio, 3), **facts)
    schedule = Schedule(arguments.epochs, RATE, warmup=0.05)
    longer = dataclasses.replace(schedule, epochs=arguments.epochs * ratio)
    recipe = dataclasses.replace(problem.evaluator.recipe, final=schedule)
    recipes = {
        "one cut": recipe,
        "staged": dataclasses.replace(recipe, staging=staging),
        "one cut, equal MACs": dataclasses.replace(recipe, final=longer),
    }
    for seed in range(arguments.seeds):
        for number, (arm, held) in enumerate(recipes.items()):
            if not results.has(arm=arm, seed=seed):
                store = FolderStore(arguments.work / f"staged-{arguments.tier}-{number}")
                results.add(arm=arm, seed=seed, epochs=held.final.epochs, **train(problem, cut, held, seed, store))
        results.write(**summarize(results))


def train(problem: Problem, cut: Cut, recipe: Recipe, seed: int, store: FolderStore) -> dict[str, float]:
    """Train the cut by a recipe; return its accuracies in percent, and the processor seconds."""
    start, request = time.process_time(), make_request(cut, "final", seed, "both")
    outcome = dataclasses.replace(problem.evaluator, recipe=recipe, store=store).evaluate(request)
    store.delete(request.key)
    assert outcome.test is not None, outcome.failure
    val, test = (round(100 - 100 * error, 2) for error in (outcome.error, outcome.test[1]))
    return {"val": val, "test": test, "processor_seconds": round(time.process_time() - start, 1)}


def compute_cost_ratio(problem: Problem, cut: Cut, staging: Staging) -> float:
    """Return the MACs of a training in stages, in units of the same training after one cut."""
    held = problem.evaluator
    plan = make_stage_plan(held.model, held.maps, cut, held.splits, held.device, staging)
    oracle, steps = problem.structure.oracle, 1_000_000
    macs = [int(oracle.compute_cost("macs", held.maps.count_kept(stage))) for stage in plan.cuts]
    bounds = staging.compute_bounds(steps)
    spent = sum(cost * (end - start) for cost, (start, end) in zip(macs, itertools.pairwise(bounds), strict=True))
    return spent / (steps * macs[-1])


def summarize(results: Results) -> dict[str, object]:
    """Return the paired differences of `staged` to both other arms, on validation and test images."""
    found = {(row["arm"], row["seed"]): row for row in results.rows}
    seeds = sorted({row["seed"] for row in results.rows})
    return {
        f"{split} over {arm}": compare_paired(
            [found["staged", seed][split] for seed in seeds], [found[arm, seed][split] for seed in seeds]
        )
        for split in ("val", "test")
        for arm in ("one cut", "one cut, equal MACs")
    }


if __name__ == "__main__":
    main()
