"""Elastic tune: does the inherited loss predict the accuracy after training, and is that accuracy higher?

    python experiments/training/elastic.py --work DIR [--tier small|full] [--seeds 2] [--epochs 12] [--only CUT;CUT]

A dozen cuts of a ResNet-20 at 12.5 % of its MACs: known rules, and random genomes. Losses on validation images right
after the cut: recalibrated and refitted, of slices of the dense network; inherited (recalibrated) and inherited with
refit, of slices of the network after an elastic tune. Kendall's tau compares each with the final accuracy of the same
cut, over all cuts and over the best two thirds of them.

Three arms of final trainings, all distilled: `dense` slices (refitted) for all epochs, `inherited` slices for as many,
and `equal`: inherited slices for all epochs but those of the tune, though one tune serves all cuts. Accuracies are in
percent. The tune is accepted if its tau exceeds that of the refitted loss by 0.15, or `equal` exceeds `dense` by 0.5.
"""

import copy
import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import stats
from setting import Results, compare_paired, get_weights_path, load_problem, parse_arguments
from torch import nn

from blendsearch.fitness.evaluator import Evaluator, make_request
from blendsearch.pipeline.elastic_tune import make_sub_networks
from blendsearch.pipeline.optimizers.baselines import make_baselines
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.runs.config.sections import ElasticConfig
from blendsearch.structure.groups import Cut
from blendsearch.training.elastic import tune_elastic
from blendsearch.training.schedule import Schedule
from blendsearch.training.teacher import LiveTeacher
from blendsearch.training.training_options import CheckpointOptions, TrainingOptions
from blendsearch.training.training_store import FolderStore

RATE, WEIGHT = 0.05, 0.7
TUNE_EPOCHS, TUNE_RATE = 4, 0.02
RANDOM_CUTS = 6
LOSSES = ("recalibrated", "refitted", "inherited", "inherited and refitted")


def main() -> None:
    arguments = parse_arguments(__doc__.splitlines()[0], __file__, seeds=2)
    problem = load_problem(arguments)
    tune_epochs = min(TUNE_EPOCHS, arguments.epochs / 3)
    results = Results(arguments, rate=RATE, weight=WEIGHT, tune_epochs=tune_epochs, tune_rate=TUNE_RATE)
    store = FolderStore(arguments.work / f"elastic-{get_weights_path(arguments).stem}-{tune_epochs:g}")
    recipe = dataclasses.replace(problem.evaluator.recipe, distillation=WEIGHT, views=8)
    dense = dataclasses.replace(problem.evaluator, store=store, recipe=recipe)
    tuned = dataclasses.replace(dense, tuned=tune(problem, store, tune_epochs))
    add_unpruned(results, dense, tuned)
    cuts = make_cuts(problem)
    for name, cut in cuts.items():
        add_losses(results, name, cut, dense, tuned)
    arms = {
        "dense": (dense, arguments.epochs),
        "inherited": (tuned, arguments.epochs),
        "equal": (tuned, arguments.epochs - tune_epochs),
    }
    for seed in range(arguments.seeds):
        for name in arguments.only or cuts:
            for arm, (evaluator, epochs) in arms.items():
                add_final(results, name, cuts[name], arm, evaluator, epochs, seed)
            results.write(**summarize(results, cuts))


def tune(problem: Problem, store: FolderStore, epochs: float) -> nn.Module:
    """Return the elastically tuned network; an interrupted tune is continued, a finished one is read."""
    module, recipe = copy.deepcopy(problem.model), problem.evaluator.recipe
    options = TrainingOptions(
        recipe.precision,
        teacher=LiveTeacher(problem.model.eval(), ElasticConfig().distillation),
        checkpoints=CheckpointOptions(store, "elastic", keep=True),
    )
    training = problem.config.training
    elastic = ElasticConfig(epochs=epochs, rate=TUNE_RATE)
    config = problem.config.model_copy(update={"training": training.model_copy(update={"elastic": elastic})})
    schedule, rng = Schedule(epochs, TUNE_RATE), np.random.default_rng(0)
    sub_networks = make_sub_networks(dataclasses.replace(problem, config=config))
    tune_elastic(
        module,
        sub_networks,
        problem.splits,
        schedule,
        problem.evaluator.device,
        rng,
        options,
        lambda done, loss: print(f"elastic tune {done:.0%}, loss {loss:.3f}", flush=True),
    )
    return module


def make_cuts(problem: Problem) -> dict[str, Cut]:
    """Make the cuts of all baselines and of random genomes, by name; equal ones once."""
    decoder, rng = problem.decoder, np.random.default_rng(1)
    named = dict(make_baselines(decoder, 1))
    named |= {f"random {number}": decoder.space.sample(rng) for number in range(RANDOM_CUTS)}
    cuts = {name: decoder.decode(genome) for name, genome in named.items()}
    first = {cut.tobytes(): name for name, cut in reversed(cuts.items())}
    return {name: cut for name, cut in cuts.items() if first[cut.tobytes()] == name}


def add_unpruned(results: Results, dense: Evaluator, tuned: Evaluator) -> None:
    """Add the validation accuracy of the whole network before and after the tune."""
    if results.has(kind="unpruned"):
        return
    assert tuned.tuned is not None
    errors = [dense.measure(module, "val")[1] for module in (dense.model, tuned.tuned)]
    before, after = (round(100 - 100 * error, 2) for error in errors)
    results.add(kind="unpruned", val_before=before, val_after=after)


def add_losses(results: Results, name: str, cut: Cut, dense: Evaluator, tuned: Evaluator) -> None:
    """Add the losses of a cut before any training of its own."""
    if results.has(kind="losses", cut=name):
        return
    row: dict[str, float] = {}
    for label, held, refitter in zip(LOSSES, (dense, dense, tuned, tuned), (None, dense.refitter) * 2, strict=True):
        outcome = dataclasses.replace(held, refitter=refitter).evaluate(make_request(cut, "recalibrated", 0))
        row[label] = round(outcome.loss, 5)
    results.add(kind="losses", cut=name, **row)


def add_final(results: Results, name: str, cut: Cut, arm: str, evaluator: Evaluator, epochs: float, seed: int) -> None:
    """Train a cut by the long schedule and add its accuracies; inherited weights are not refitted."""
    if results.has(kind="final", cut=name, arm=arm, seed=seed):
        return
    recipe = dataclasses.replace(evaluator.recipe, final=Schedule(epochs, RATE, warmup=0.05))
    refitter = None if evaluator.tuned is not None else evaluator.refitter
    held = dataclasses.replace(evaluator, recipe=recipe, refitter=refitter)
    request = make_request(cut, "final", seed, "both")
    outcome = held.evaluate(request)
    held.store.delete(request.key)
    assert outcome.test is not None, outcome.failure
    val, test = (round(100 - 100 * error, 2) for error in (outcome.error, outcome.test[1]))
    results.add(kind="final", cut=name, arm=arm, seed=seed, epochs=epochs, val=val, test=test)


def summarize(results: Results, cuts: dict[str, Cut]) -> dict[str, object]:
    """Return the rank correlations and the differences of accuracies over all cuts that every arm has trained."""
    finals = [row for row in results.rows if row["kind"] == "final"]
    found = {(row["arm"], row["cut"], row["seed"]): row for row in finals}
    pairs = [key[1:] for key in found if key[0] == "equal"]
    losses = {row["cut"]: row for row in results.rows if row["kind"] == "losses"}
    summary: dict[str, object] = {}
    for arm in ("dense", "inherited"):
        trained = [cut for cut in cuts if any(pair[0] == cut for pair in pairs)]
        means = {cut: np.mean([found[arm, *pair]["test"] for pair in pairs if pair[0] == cut]) for cut in trained}
        best = sorted(trained, key=lambda cut: -means[cut])[: round(len(trained) * 2 / 3)]
        for title, chosen in (("all", trained), ("best two thirds", best)):
            accuracies = [means[cut] for cut in chosen]
            summary[f"tau, {arm} finals, {title}"] = {
                label: compute_tau([-losses[cut][label] for cut in chosen], accuracies) for label in LOSSES
            }
    for arm in ("inherited", "equal"):
        for split in ("val", "test"):
            first, second = ([found[name, *pair][split] for pair in pairs] for name in (arm, "dense"))
            summary[f"{split} {arm} over dense"] = compare_paired(first, second)
    return summary


def compute_tau(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Kendall's tau, or None for fewer than three pairs."""
    return round(float(stats.kendalltau(first, second)[0]), 3) if len(first) > 2 else None


if __name__ == "__main__":
    main()
