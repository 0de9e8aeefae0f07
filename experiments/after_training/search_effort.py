"""Where the search's effort pays: images per evaluation, evaluations and population, compared on other images.

    python experiments/after_training/search_effort.py SETTING --work DIR [--searches 2000x100/24,500x300/24]

Every seed searches once with each `IMAGESxEVALUATIONS/POPULATION`, without a ladder and without finals; with `:dense`
after it, by the divergence from the dense network. `unused` is the loss of the best network, against labels, on images
that no search saw (the same for all), `rule_unused` that of the best known rule by the same search.
`epochs` is the cost of the evaluations in epochs of training of a network at the budget.
`search_effort-SETTING.json` has all of them, and the paired differences of `unused` to the first search; it is written
after every search.
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from compare import is_known_rule, make_arguments, make_parser
from genomes import run_search

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from setting import Arguments, compare_paired, load_problem, measure_loss

from blendsearch.pipeline.problem.persistence import restore
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.results.ladder_summary import compute_evaluation_cost
from blendsearch.runs.pareto import select_evaluated
from blendsearch.runs.records import Evaluation
from blendsearch.runs.run import Run
from blendsearch.structure.groups import unpack_cut
from blendsearch.training.training_cost import PASSES

MOST = 2000
"""Images of the searches whose unused images all networks are compared on."""


class Effort(NamedTuple):
    """Images per evaluation, evaluations of the search, candidates of a generation, and `fitness.against`."""

    images: int
    evaluations: int
    population: int
    against: str = "labels"

    def __str__(self) -> str:
        against = "" if self.against == "labels" else f":{self.against}"
        return f"{self.images}x{self.evaluations}/{self.population}{against}"


def parse_efforts(text: str) -> list[Effort]:
    """Parse texts such as ``2000x100/24,500x300/24:dense``."""
    efforts = []
    for part in text.split(","):
        numbers, _, against = part.partition(":")
        images, evaluations, population = map(int, numbers.replace("/", "x").split("x"))
        efforts.append(Effort(images, evaluations, population, against or "labels"))
    return efforts


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0], seeds=3, evaluations=100)
    parser.add_argument("--searches", type=parse_efforts, default=[Effort(MOST, 100, 24), Effort(500, 300, 24)])
    asked = parser.parse_args()
    asked.out = asked.out or Path(__file__).with_name(f"search_effort-{asked.setting}.json")
    arguments = make_arguments(asked)
    torch.set_num_threads(1)
    load_problem(arguments)  # trains the base network once
    facts = {"setting": asked.setting, "tier": asked.tier}
    rows: list[dict[str, Any]] = json.loads(asked.out.read_text())["rows"] if asked.out.exists() else []
    for seed in range(asked.seeds):
        for effort in asked.searches:
            if all((row["seed"], row["search"]) != (seed, str(effort)) for row in rows):
                rows.append(compare_search(arguments, effort, seed))
                print(rows[-1], flush=True)
                summary = summarize(rows, str(asked.searches[0]))
                asked.out.write_text(json.dumps(facts | {"summary": summary, "rows": rows}, indent=1) + "\n")


def compare_search(arguments: Arguments, effort: Effort, seed: int) -> dict[str, Any]:
    """Search with this effort; return the loss of its network and of its best rule on images no search saw."""
    run = search_with(arguments, effort, seed)
    with run.open_store(read_only=True) as store:
        found = [row for row in select_evaluated(store.read_evaluations()) if row.id]
        cost = compute_evaluation_cost(run, store.read_bare_evaluations())
    best = min(found, key=lambda row: (row.loss, row.id))
    rule = min((row for row in found if is_known_rule(row.origin)), key=lambda row: (row.loss, row.id))
    problem = restore(search_with(arguments, Effort(MOST, 24, 24), seed))
    epoch = PASSES * len(problem.evaluator.splits.train) * best.macs
    return {
        "seed": seed,
        "search": str(effort),
        "origin": best.origin,
        "loss": round(best.loss, 4),
        "unused": measure_unused(problem, best, seed),
        "rule": rule.origin,
        "rule_unused": measure_unused(problem, rule, seed),
        "epochs": round(cost / epoch, 3),
    }


def search_with(arguments: Arguments, effort: Effort, seed: int) -> Run:
    label = str(effort).replace("/", "-").replace(":", "-")
    search = {"evaluations": effort.evaluations, "population": effort.population}
    return run_search(arguments, label, search, seed, effort.images, effort.against)


def measure_unused(problem: Problem, row: Evaluation, seed: int) -> float:
    """Measure the loss of an evaluated network on the images that no search saw."""
    cut = unpack_cut(row.cut, problem.structure.maps.channels)
    return round(measure_loss(problem.evaluator, cut, seed, "unused"), 4)


def summarize(rows: list[dict[str, Any]], first: str) -> list[dict[str, Any]]:
    """Return the means of every search, and its paired differences to the `first`."""
    summary = []
    reference = {row["seed"]: row["unused"] for row in rows if row["search"] == first}
    for search in dict.fromkeys(row["search"] for row in rows):
        found = [row for row in rows if row["search"] == search]
        entry: dict[str, Any] = {"search": search, "seeds": len(found)}
        entry |= {
            key: round(statistics.mean(row[key] for row in found), 4) for key in ("unused", "rule_unused", "epochs")
        }
        pairs = [(row["unused"], reference[row["seed"]]) for row in found if row["seed"] in reference]
        if search != first and len(pairs) > 1:
            entry["difference"] = compare_paired(*map(list, zip(*pairs, strict=True)))
        summary.append(entry)
    return summary


if __name__ == "__main__":
    main()
