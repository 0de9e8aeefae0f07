"""Distillation from stored teacher outputs, against plain fine-tuning, at equal epochs and at equal seconds.

    python experiments/training/distillation.py --work DIR [--tier small|full] [--seeds 5] [--epochs 12]

One cut (uniform, by L1) of a ResNet-20 at 12.5 % of its MACs. Each seed trains it by the labels alone, and towards the
dense network's stored outputs (8 views per image). `equal seconds` gives the plain fine-tune as many more epochs as the
teacher's passes and the divergence take, on average over the seeds that share them. Accuracies are in percent.
"""

import dataclasses
import math
import time

from setting import Results, compare_paired, load_problem, make_cut, parse_arguments

from blendsearch.fitness.evaluator import Evaluator, make_request
from blendsearch.training.recovery import TEACHER_KEY
from blendsearch.training.schedule import Schedule
from blendsearch.training.stored_teacher import load_or_compute_logits
from blendsearch.training.training_store import FolderStore

RATE, WEIGHT, VIEWS = 0.05, 0.7, 8


def main() -> None:
    arguments = parse_arguments(__doc__.splitlines()[0], __file__)
    problem = load_problem(arguments)
    results = Results(arguments, rate=RATE, weight=WEIGHT)
    cut = make_cut(problem)
    evaluator = dataclasses.replace(problem.evaluator, store=FolderStore(arguments.work / f"store-{arguments.tier}"))
    schedule = Schedule(arguments.epochs, RATE, warmup=0.05)

    def run(arm: str, seed: int, weight: float, schedule: Schedule) -> None:
        if results.has(arm=arm, seed=seed):
            return
        recipe = dataclasses.replace(evaluator.recipe, final=schedule, distillation=weight, views=VIEWS)
        start = time.process_time()
        request = make_request(cut, "final", seed, "both")
        outcome = dataclasses.replace(evaluator, recipe=recipe).evaluate(request)
        evaluator.store.delete(request.key)
        assert outcome.test is not None, outcome.failure
        results.add(
            arm=arm,
            seed=seed,
            epochs=schedule.epochs,
            val=round(100 - 100 * outcome.error, 2),
            test=round(100 - 100 * outcome.test[1], 2),
            processor_seconds=round(time.process_time() - start, 1),
        )

    teacher_seconds = store_teacher(results, evaluator, min(VIEWS, math.ceil(arguments.epochs)))
    for seed in range(arguments.seeds):
        run("plain", seed, 0.0, schedule)
        run("distilled", seed, WEIGHT, schedule)
    evaluator.store.delete(TEACHER_KEY)

    found = {arm: {row["seed"]: row for row in results.rows if row["arm"] == arm} for arm in ("plain", "distilled")}
    seconds = {arm: sum(row["processor_seconds"] for row in rows.values()) for arm, rows in found.items()}
    ratio = (seconds["distilled"] + teacher_seconds) / seconds["plain"]
    for seed in range(arguments.seeds):
        run("equal seconds", seed, 0.0, dataclasses.replace(schedule, epochs=arguments.epochs * ratio))
    longer = {row["seed"]: row for row in results.rows if row["arm"] == "equal seconds"}
    results.write(
        seconds_ratio=round(ratio, 3),
        **{
            f"{split} {name}": compare_paired(
                [found["distilled"][seed][split] for seed in rows], [rows[seed][split] for seed in rows]
            )
            for split in ("val", "test")
            for name, rows in (("over plain", found["plain"]), ("over equal seconds", longer))
        },
    )


def store_teacher(results: Results, evaluator: Evaluator, views: int) -> float:
    """Store the dense network's outputs, once; return the processor seconds that this took."""
    if not results.has(arm="teacher"):
        evaluator.store.delete(TEACHER_KEY)
    start, recipe = time.process_time(), evaluator.recipe
    facts = evaluator.store, TEACHER_KEY, evaluator.model, evaluator.splits, views, recipe.view_seed
    load_or_compute_logits(*facts, evaluator.device, recipe.precision)
    if not results.has(arm="teacher"):
        results.add(arm="teacher", views=views, processor_seconds=round(time.process_time() - start, 1))
    return next(row["processor_seconds"] for row in results.rows if row["arm"] == "teacher")


if __name__ == "__main__":
    main()
