"""What there is to find (E0): the spread between cuts after training, and what predicts it.

    python experiments/after_training/what_to_find.py SETTING --work DIR [--tier small|full] [--seeds 2] [--epochs 30]

A dozen cuts at one budget, each trained on every seed: known rules, the best networks of a search without trainings,
and random genomes. The JSON has, over all cuts and over the better two thirds:

- `true_spread`: standard deviation between cuts of the mean test accuracy, with the noise of the seeds removed;
  `seed_spread`: standard deviation of one cut over seeds;
- `tau_seed`: Kendall's tau of the accuracies on one seed and on another, the ceiling of every predictor;
- `tau`: Kendall's tau of each predictor with the mean accuracy: losses before training (recalibrated, refitted,
  refitted at the temperature that suits each network, the divergence of those outputs from the dense network's, and
  with --tune-epochs inherited from an elastically tuned network), the validation loss at 1/16, 1/8 and 1/4 of the
  schedule, parameters, and the least share kept of any group.

Rows are written after every training, and a run that was stopped continues.
"""

import argparse
import dataclasses
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from compare import POOL, RATE, WEIGHT, make_arguments, make_parser
from elastic import tune
from scipy import stats
from setting import Arguments, Results, load_problem

from blendsearch.fitness.evaluator import make_request
from blendsearch.pipeline.methods.method import load_method, make_search_optimizer
from blendsearch.pipeline.optimizers.base import CandidateResult
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.structure.groups import Cut
from blendsearch.training.schedule import Schedule
from blendsearch.training.training_store import FolderStore

RULES = ("l1 uniform", "l1 global", "l2 global", "lamp global", "fisher global", "taylor_gate global")
SHARES = (0.0625, 0.125, 0.25)
SEARCHED, RANDOM = 3, 3
PREDICTORS = (
    *("recalibrated", "refitted", "fitted", "divergence", "inherited"), *(f"loss at {share:g}" for share in SHARES),
    *("params", "least_share"),
)  # fmt: skip


def main() -> None:
    asked = parse_arguments()
    arguments = make_arguments(asked)
    torch.set_num_threads(1)
    sections = {"criteria": {"pool": list(POOL)}, "search": {"evaluations": asked.evaluations}}
    problem = load_problem(arguments, sections | {"budget": {"macs": arguments.macs, "round_to": 1}})
    results = Results(arguments, setting=asked.setting, rate=RATE, weight=WEIGHT, evaluations=asked.evaluations)
    cuts = load_cuts(problem, results, asked.evaluations)
    for name, cut in cuts.items():
        add_predictors(results, problem, name, cut)
        if not results.has(kind="fitted", cut=name):
            loss = problem.evaluator.evaluate(make_request(cut, "recalibrated", 0)).loss
            results.add(kind="fitted", cut=name, fitted=round(loss, 5))
        if not results.has(kind="divergence", cut=name):
            against_dense = dataclasses.replace(problem.evaluator, loss_target="dense")
            loss = against_dense.evaluate(make_request(cut, "recalibrated", 0)).loss
            results.add(kind="divergence", cut=name, divergence=round(loss, 5))
    if asked.tune_epochs:
        add_inherited(results, problem, arguments, cuts, asked.tune_epochs)
    for seed in range(asked.seeds):
        for name, cut in cuts.items():
            add_training(results, problem, arguments, name, cut, seed)
        results.write(**summarize(results, list(cuts)))
    print(json.dumps(summarize(results, list(cuts)), indent=1))


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__.splitlines()[0], seeds=2, evaluations=150)
    parser.add_argument("--tune-epochs", type=float, default=0, help="length of an elastic tune; 0 for none")
    asked = parser.parse_args()
    asked.out = asked.out or Path(__file__).with_name(f"what_to_find-{asked.setting}.json")
    return asked


def load_cuts(problem: Problem, results: Results, evaluations: int) -> dict[str, Cut]:
    """Return the dozen cuts by name; those of the search are stored in the results as the channels that are kept."""
    decoder, rng = problem.decoder, np.random.default_rng(1)
    baselines = dict(load_method("blended").make_baselines(problem))
    cuts = {name: decoder.decode(baselines[name]) for name in RULES}
    if not results.has(kind="searched"):
        for number, cut in enumerate(search(problem, evaluations)):
            results.add(kind="searched", cut=f"searched {number}", kept=np.flatnonzero(cut).tolist())
    for row in results.rows:
        if row["kind"] == "searched":
            cuts[row["cut"]] = np.isin(np.arange(problem.structure.maps.channels), row["kept"])
    return cuts | {f"random {number}": decoder.decode(decoder.space.sample(rng)) for number in range(RANDOM)}


def search(problem: Problem, evaluations: int) -> list[Cut]:
    """Search without trainings; return the best networks, each of another generation."""
    optimizer, evaluator = make_search_optimizer(problem), problem.evaluator
    known: set[str] = set()
    best: list[tuple[float, Cut]] = []
    candidates = optimizer.ask_first(load_method("blended").make_baselines(problem), evaluations)
    while candidates:
        found = []
        for candidate in candidates:
            outcome = evaluator.evaluate(make_request(candidate.cut, "recalibrated", 0))
            found.append(
                CandidateResult(candidate.genome, (outcome.loss, outcome.error), candidate.digest, candidate.origin)
            )
        known |= {candidate.digest for candidate in candidates}
        least = min(range(len(found)), key=lambda place: found[place].objectives[0])
        best.append((found[least].objectives[0], candidates[least].cut))
        print(f"search: {len(known)} evaluated, loss {best[-1][0]:.4f}", flush=True)
        optimizer.tell(found)
        left = evaluations - len(known)
        candidates = optimizer.ask(min(left, problem.config.search.population), known) if left > 0 else []
    return [cut for _, cut in sorted(best, key=lambda pair: pair[0])[:SEARCHED]]


def add_predictors(results: Results, problem: Problem, name: str, cut: Cut) -> None:
    """Add what is known of a cut before any training: losses, parameters, least share kept."""
    if results.has(kind="predictors", cut=name):
        return
    own = dataclasses.replace(problem.evaluator, fits_temperature=False)
    plain = dataclasses.replace(own, refitter=None)
    request, maps = make_request(cut, "recalibrated", 0), problem.structure.maps
    counts = maps.count_kept(cut)
    results.add(
        kind="predictors",
        cut=name,
        recalibrated=round(plain.evaluate(request).loss, 5),
        refitted=round(own.evaluate(request).loss, 5),
        params=-float(problem.structure.oracle.compute_ratio("params", counts)),
        least_share=-float((counts / maps.sizes).min()),
    )


def add_inherited(
    results: Results, problem: Problem, arguments: Arguments, cuts: dict[str, Cut], epochs: float
) -> None:
    """Add the loss of each cut out of the dense network after an elastic tune."""
    if all(results.has(kind="inherited", cut=name) for name in cuts):
        return
    tuned = tune(problem, FolderStore(arguments.work / f"elastic-{arguments.tier}-{epochs:g}"), epochs)
    evaluator = dataclasses.replace(problem.evaluator, tuned=tuned, refitter=None, fits_temperature=False)
    before, after = (100 - 100 * evaluator.measure(module, "val")[1] for module in (problem.model, tuned))
    results.add(kind="unpruned", tune_epochs=epochs, val_before=round(before, 2), val_after=round(after, 2))
    for name, cut in cuts.items():
        loss = evaluator.evaluate(make_request(cut, "recalibrated", 0)).loss
        results.add(kind="inherited", cut=name, inherited=round(loss, 5))


def add_training(results: Results, problem: Problem, arguments: Arguments, name: str, cut: Cut, seed: int) -> None:
    """Train a cut on the schedule, with the validation loss at every share of it."""
    if results.has(kind="trained", cut=name, seed=seed):
        return
    recipe = dataclasses.replace(
        problem.evaluator.recipe, final=Schedule(arguments.epochs, RATE, warmup=0.05), distillation=WEIGHT, views=8
    )
    store = FolderStore(arguments.work / f"store-{arguments.tier}")
    evaluator = dataclasses.replace(problem.evaluator, recipe=recipe, store=store, fits_temperature=False)
    request, row = make_request(cut, "final", seed), dict[str, Any]()
    for share in SHARES:
        row[f"loss at {share:g}"] = round(evaluator.evaluate(request._replace(stop=share)).loss, 5)
    outcome = evaluator.evaluate(request._replace(split="both"))
    store.delete(request.key)
    assert outcome.test is not None, outcome.failure
    val, test = round(100 - 100 * outcome.error, 2), round(100 - 100 * outcome.test[1], 2)
    results.add(kind="trained", cut=name, seed=seed, **row, val=val, test=test)


def summarize(results: Results, names: list[str]) -> dict[str, Any]:
    """Compute spreads and rank correlations over all cuts, and over the better two thirds."""
    trained = {(row["cut"], row["seed"]): row for row in results.rows if row["kind"] == "trained"}
    seeds = sorted({seed for _, seed in trained})
    seeds = [seed for seed in seeds if all((name, seed) in trained for name in names)]
    if not seeds:
        return {}
    accuracies = np.array([[trained[name, seed]["test"] for seed in seeds] for name in names])
    order = np.argsort(-accuracies.mean(axis=1))
    better = sorted(order[: round(len(names) * 2 / 3)].tolist())
    return {
        "accuracies": {name: accuracies[place].tolist() for place, name in enumerate(names)},
        "all": describe(results, names, list(range(len(names))), accuracies, seeds),
        "better two thirds": describe(results, names, better, accuracies, seeds),
    }


def describe(
    results: Results, names: list[str], places: list[int], accuracies: NDArray[np.float64], seeds: list[int]
) -> dict[str, Any]:
    """Compute spreads, the ceiling and the predictors' rank correlations over some of the cuts."""
    chosen, means = accuracies[places], accuracies[places].mean(axis=1)
    noise = float(chosen.var(axis=1, ddof=1).mean()) if len(seeds) > 1 else float("nan")
    between = float(means.var(ddof=1)) - noise / len(seeds)
    pairs = [
        compute_tau(chosen[:, one], chosen[:, other]) for one, other in itertools.combinations(range(len(seeds)), 2)
    ]
    return {
        "true_spread": round(float(np.sqrt(max(0.0, between))), 3),
        "seed_spread": round(float(np.sqrt(noise)), 3),
        "range": round(float(means.max() - means.min()), 2),
        "tau_seed": round(float(np.mean(pairs)), 3) if pairs else None,
        "tau": {
            key: compute_tau(
                [-value for value in read_predictor(results, key, [names[place] for place in places])], means
            )
            for key in PREDICTORS
            if any(key in row for row in results.rows)
        },
    }


def read_predictor(results: Results, key: str, names: list[str]) -> list[float]:
    """Return a predictor of each cut, lower for better ones; the mean over seeds where there are several."""
    rows = [row for row in results.rows if key in row]
    return [float(np.mean([row[key] for row in rows if row["cut"] == name])) for name in names]


def compute_tau(first: Any, second: Any) -> float:
    return round(float(stats.kendalltau(first, second)[0]), 3)


if __name__ == "__main__":
    main()
