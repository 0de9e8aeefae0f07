"""How many validation images an evaluation needs: searches with fewer images, their networks compared on other images.

    python experiments/after_training/evaluation_images.py SETTING --work DIR [--images 250,500,1000,2000] [--seeds 5]

Every seed searches once with each number of images per evaluation, without a ladder and without finals. `unused` is the
loss of the best network on validation images that no search saw (the same for all), `rule` that of the best known rule
by the same search. `epochs` is the cost of the evaluations in epochs of training of a network at the budget.
`evaluation_images-SETTING.json` has all of them, and the paired differences of `unused` to the most images; it is
written after every search.
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from compare import is_known_rule, make_arguments, make_parser
from genomes import run_search

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from setting import Arguments, compare_paired, load_problem

from blendsearch.fitness.evaluator import make_request
from blendsearch.pipeline.problem.persistence import restore
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.results.ladder_summary import compute_evaluation_cost
from blendsearch.runs.pareto import select_evaluated
from blendsearch.runs.records import Evaluation
from blendsearch.structure.groups import unpack_cut
from blendsearch.training.training_cost import PASSES

MOST = 2000
"""Images of the searches whose unused images all networks are compared on."""


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0], seeds=5, evaluations=100)
    parser.add_argument("--images", type=lambda text: [int(part) for part in text.split(",")], default=[2000, 500, 250])
    asked = parser.parse_args()
    asked.out = asked.out or Path(__file__).with_name(f"evaluation_images-{asked.setting}.json")
    arguments = make_arguments(asked)
    torch.set_num_threads(1)
    load_problem(arguments)  # trains the base network once
    facts = {"setting": asked.setting, "tier": asked.tier, "evaluations": asked.evaluations}
    rows: list[dict[str, Any]] = json.loads(asked.out.read_text())["rows"] if asked.out.exists() else []
    for seed in range(asked.seeds):
        for images in asked.images:
            if all((row["seed"], row["images"]) != (seed, images) for row in rows):
                rows.append(compare_search(arguments, images, seed, asked.evaluations))
                print(rows[-1], flush=True)
                asked.out.write_text(json.dumps(facts | {"summary": summarize(rows), "rows": rows}, indent=1) + "\n")


def compare_search(arguments: Arguments, images: int, seed: int, evaluations: int) -> dict[str, Any]:
    """Search with so many images; return the loss of its network and of its best rule on images no search saw."""
    run = run_search(arguments, f"images-{images}", {}, seed, evaluations, images)
    with run.open_store(read_only=True) as store:
        found = [row for row in select_evaluated(store.read_evaluations()) if row.id]
        cost = compute_evaluation_cost(run, store.read_bare_evaluations())
    best = min(found, key=lambda row: (row.loss, row.id))
    rule = min((row for row in found if is_known_rule(row.origin)), key=lambda row: (row.loss, row.id))
    problem = restore(run_search(arguments, f"images-{MOST}", {}, seed, evaluations, MOST))
    epoch = PASSES * len(problem.evaluator.splits.train) * best.macs
    return {
        "seed": seed,
        "images": images,
        "origin": best.origin,
        "loss": round(best.loss, 4),
        "unused": measure_unused(problem, best, seed),
        "rule": rule.origin,
        "rule_unused": measure_unused(problem, rule, seed),
        "epochs": round(cost / epoch, 3),
    }


def measure_unused(problem: Problem, row: Evaluation, seed: int) -> float:
    """Measure the loss of an evaluated network on the images that no search saw."""
    cut = unpack_cut(row.cut, problem.structure.maps.channels)
    return round(problem.evaluator.evaluate(make_request(cut, "recalibrated", seed, "unused")).loss, 4)


def summarize(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the means of every number of images, and its paired differences to the most images."""
    summary = []
    reference = {row["seed"]: row["unused"] for row in rows if row["images"] == MOST}
    for images in sorted({row["images"] for row in rows}):
        found = [row for row in rows if row["images"] == images]
        entry: dict[str, Any] = {"images": images, "seeds": len(found)}
        entry |= {
            key: round(statistics.mean(row[key] for row in found), 4) for key in ("unused", "rule_unused", "epochs")
        }
        pairs = [(row["unused"], reference[row["seed"]]) for row in found if row["seed"] in reference]
        if images != MOST and len(pairs) > 1:
            entry["difference"] = compare_paired(*map(list, zip(*pairs, strict=True)))
        summary.append(entry)
    return summary


if __name__ == "__main__":
    main()
