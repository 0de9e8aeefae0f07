"""The price of widths in multiples after training: `budget.round_to` 1, auto, 8 and 16 at one budget.

    python experiments/after_training/multiples.py SETTING --work DIR [--tier small|full] [--seeds 3] [--epochs 30]

Known rules are cut at the budget with each value and trained by one recipe, as in `compare.py`, on every seed. Rows are
written after every training, and a run that was stopped continues. `multiples-SETTING.json` has the test accuracies,
the MACs that the cuts keep and, for each value, the mean difference in points to `round_to: 1` over all rules and
seeds, with half of its 95 % interval by the paired t-test. A value that does not reach the budget is left out.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from compare import POOL, RATE, WEIGHT, make_arguments, make_parser
from setting import Arguments, Results, compare_paired, load_problem

from blendsearch.errors import BudgetError
from blendsearch.fitness.evaluator import make_request
from blendsearch.pipeline.methods.method import load_method
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.structure.groups import Cut
from blendsearch.training.schedule import Schedule

VALUES = ("1", "auto", "8", "16")
RULES = ("fisher global", "taylor_gate global", "l1 uniform")


def main() -> None:
    asked = parse_arguments()
    arguments = make_arguments(asked)
    torch.set_num_threads(1)
    results = Results(arguments, setting=asked.setting, rate=RATE, weight=WEIGHT, values=asked.values)
    problems = load_problems(arguments, asked.values)
    for seed in range(asked.seeds):
        for rule in asked.rules:
            for value, problem in problems.items():
                if not results.has(rule=rule, round_to=value, seed=seed):
                    results.add(rule=rule, round_to=value, seed=seed, **train(problem, rule, arguments.epochs, seed))
        results.write(**summarize(results.rows))
    print(json.dumps(summarize(results.rows), indent=1))


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__.splitlines()[0], seeds=3, evaluations=0)
    parser.add_argument("--values", type=lambda text: text.split(","), default=list(VALUES), help="of budget.round_to")
    parser.add_argument(
        "--rules", type=lambda text: text.split(";"), default=list(RULES), help="separated by semicolons"
    )
    asked = parser.parse_args()
    asked.out = asked.out or Path(__file__).with_name(f"multiples-{asked.setting}.json")
    return asked


def load_problems(arguments: Arguments, values: list[str]) -> dict[str, Problem]:
    """Load the problem with each value of `budget.round_to` that reaches the budget."""
    problems = {}
    for value in values:
        round_to: Any = value if value == "auto" else int(value)
        sections = {"criteria": {"pool": list(POOL)}, "budget": {"macs": arguments.macs, "round_to": round_to}}
        try:
            problems[value] = load_problem(arguments, sections)
        except BudgetError as error:
            print(f"round_to {value} is left out: {error}", flush=True)
    return problems


def train(problem: Problem, rule: str, epochs: float, seed: int) -> dict[str, float]:
    """Train the cut of a rule; return its test accuracy in percent, and the shares of MACs and parameters it keeps."""
    cut = make_rule_cut(problem, rule)
    final = Schedule(epochs, RATE, warmup=0.05)
    recipe = dataclasses.replace(problem.evaluator.recipe, final=final, distillation=WEIGHT)
    outcome = dataclasses.replace(problem.evaluator, recipe=recipe).evaluate(make_request(cut, "final", seed, "both"))
    if outcome.test is None:
        sys.exit(f"a training failed: {outcome.failure}")
    oracle, counts = problem.structure.oracle, problem.structure.maps.count_kept(cut)
    kept = {f"{name}_kept": round(float(oracle.compute_ratio(name, counts)), 4) for name in ("macs", "params")}
    return {"test": round(100 - 100 * outcome.test[1], 2), "val": round(100 - 100 * outcome.error, 2), **kept}


def make_rule_cut(problem: Problem, rule: str) -> Cut:
    """Make the cut of a rule; one that several rules share has their names joined."""
    for name, genome in load_method("blended").make_baselines(problem):
        if rule in name.split(" = "):
            return problem.decoder.decode(genome)
    sys.exit(f"no baseline is called {rule!r}")


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare each value with `round_to: 1`, over the rules and seeds that both have."""
    tests = {(row["round_to"], row["rule"], row["seed"]): row["test"] for row in rows}
    found: dict[str, Any] = {}
    for value in dict.fromkeys(row["round_to"] for row in rows):
        pairs = [
            (test, tests["1", *key[1:]]) for key, test in tests.items() if key[0] == value and ("1", *key[1:]) in tests
        ]
        if value != "1" and pairs:
            found[value] = compare_paired(*map(list, zip(*pairs, strict=True)))
    return {"difference_to_1": found}


if __name__ == "__main__":
    main()
