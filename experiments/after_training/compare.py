"""Accuracy after training at equal total cost: the search on its ladder against rules, scratch and Torch-Pruning.

    python experiments/after_training/compare.py SETTING --work DIR [--tier small|full] [--seeds 5] [--epochs 30]

Every seed searches once (`search`: the default method, from its first evaluation to the end of its finals) and counts
the multiply-accumulates of all evaluations and trainings. The other arms are trained by the same recipe:

- `rule`: the known rule (a criterion, uniform or global) of the least loss in the search, for the epochs of the finals;
- `rule, equal cost`: the same network, for as many epochs as the whole search cost;
- `uniform, equal cost`: the same for the rule with uniform widths of the least loss;
- `scratch, equal cost`: the architecture of that rule from random weights, for as many epochs;
- `torch-pruning, equal cost`: the network of Torch-Pruning's pruner (method `torch-pruning`), for as many epochs;
- `torch-pruning, as used`: the same networks without refit and distillation, tuned at rate 0.01 as its examples do;
- `random`: random genomes on the same ladder (method `random`).

With `--no-ladder`, the searches train one network, that of the least loss: their cost is that of the evaluations and of
one training, which may be longer at equal total cost. With `--promote`, the best of the evaluations on `--val-limit`
images are evaluated again on the other validation images, and the network is chosen among them.

Networks are chosen by validation; each is tested once, in its last epoch. Rows are written after every training, and a
run that was stopped continues. `SETTING.json` has `arms` and `paired`: the difference in points of `search` to each
other arm, with its 95 % interval by the paired t-test over the seeds.
"""

import argparse
import dataclasses
import json
import math
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from setting import (
    Arguments,
    compare_paired,
    get_weights_path,
    load_problem,
    make_config,
    make_random_model,
    run_config,
)

from blendsearch.fitness.evaluator import make_request
from blendsearch.pipeline.problem.persistence import restore
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.results.ladder_summary import compute_evaluation_cost, compute_promotion_cost
from blendsearch.results.summary import summarize_run
from blendsearch.runs.pareto import select_evaluated, select_highest_fidelity
from blendsearch.runs.records import Evaluation
from blendsearch.runs.run import Run, open_run
from blendsearch.structure.groups import Cut, unpack_cut
from blendsearch.training.schedule import Schedule
from blendsearch.training.training_cost import compute_training_cost
from blendsearch.training.training_store import FolderStore

RATE, WEIGHT = 0.05, 0.7

PLAIN_RATE = 0.01
"""The rate at which Torch-Pruning's examples tune pruned CIFAR networks."""

POOL = ("l1", "l2", "fpgm", "lamp", "taylor_gate", "fisher", "bn_gamma", "apoz")

WIDTHS = (" uniform", " global")
"""Endings of the names of known rules."""

ARMS = (
    "search", "rule, equal cost", "uniform, equal cost", "rule", "scratch, equal cost",
    "torch-pruning, equal cost", "torch-pruning, as used", "random",
)  # fmt: skip
"""In the order in which they run: the costs of others follow from that of the search."""


class Setting(NamedTuple):
    """A network, its data, and the share of its MACs that is kept."""

    network: str
    dataset: str
    macs: float


SETTINGS = {
    "resnet20-cifar100-8x": Setting("cifar_resnet:20", "cifar100", 0.125),
    "resnet20-cifar100-4x": Setting("cifar_resnet:20", "cifar100", 0.25),
    "resnet56-cifar10-2x": Setting("cifar_resnet:56", "cifar10", 0.5),
    "resnet56-cifar10-3.6x": Setting("cifar_resnet:56", "cifar10", 1 / 3.6),
    "resnet56-cifar10-11.4x": Setting("cifar_resnet:56", "cifar10", 1 / 11.4),
    "vgg19-cifar100-8.9x": Setting("vgg19", "cifar100", 1 / 8.9),
    "vgg11-cifar100-8.9x": Setting("half_vgg11", "cifar100", 1 / 8.9),
    "mobilenet-cifar100-4x": Setting("half_mobilenet", "cifar100", 0.25),
}


def main() -> None:
    asked = parse_arguments()
    arguments = make_arguments(asked)
    torch.set_num_threads(1)
    load_problem(arguments)  # trains the base network once
    facts = {"setting": asked.setting, "tier": asked.tier, "epochs": asked.epochs, "ladder": not asked.no_ladder}
    facts |= {"evaluations": asked.evaluations, "rate": asked.rate, "distillation": asked.distillation}
    facts |= {"batch_size": asked.batch_size, "precision": asked.precision}
    facts |= {"val_limit": asked.val_limit, "against": asked.against, "promote": asked.promote}
    facts |= {"capacity": asked.capacity}
    table = Table(asked.out, facts)
    for seed in range(asked.first_seed, asked.first_seed + asked.seeds):
        search: dict[str, Any] = {"search": {"evaluations": asked.evaluations}}
        if asked.no_ladder:
            search |= {"ladder": {"rungs": []}}
        if asked.against != "labels" or asked.capacity:
            fitness = {"repair": "refit", "precision": asked.precision, "against": asked.against}
            search |= {"fitness": fitness | {"capacity": asked.capacity}}
        if asked.promote:
            search |= {"promote": {"share": asked.promote, "fidelity": "recalibrated", "images": "unused"}}
        experiment = Experiment(arguments, search, table, seed, asked.rate, asked.distillation, asked.val_limit)
        for arm in ARMS:
            if arm in asked.arms and not table.has(arm, seed):
                table.add(arm, **experiment.run(arm))


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__.splitlines()[0], seeds=5, evaluations=200)
    parser.add_argument(
        "--arms", type=lambda text: text.split(";"), default=list(ARMS), help="arms, separated by semicolons"
    )
    parser.add_argument("--first-seed", type=int, default=0, help="processes may share the seeds, with an --out each")
    parser.add_argument("--no-ladder", action="store_true", help="searches train their network of the least loss only")
    parser.add_argument("--rate", type=float, default=RATE, help="learning rate of all trainings")
    parser.add_argument("--distillation", type=float, default=WEIGHT, help="weight of the dense network's outputs")
    parser.add_argument("--val-limit", type=int, default=2000, help="validation images of an evaluation")
    parser.add_argument(
        "--against", choices=("labels", "dense", "auto"), default="labels", help="targets of the search's loss"
    )
    parser.add_argument("--capacity", type=float, default=0.0, help="exponent of the parameters in the search's loss")
    parser.add_argument("--promote", type=float, default=0.0, help="share evaluated again on all other images")
    asked = parser.parse_args()
    asked.out = asked.out or Path(__file__).with_name(f"{asked.setting}{'-no-ladder' * asked.no_ladder}.json")
    return asked


def make_parser(description: str, seeds: int, evaluations: int) -> argparse.ArgumentParser:
    """Make the parser of the options that all experiments on `SETTINGS` share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("setting", choices=SETTINGS)
    parser.add_argument("--work", type=Path, required=True, help="folder for data, base weights, checkpoints and runs")
    parser.add_argument("--out", type=Path, help="default: beside this script, named after the setting")
    parser.add_argument("--tier", choices=("small", "full"), default="small")
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--epochs", type=float, default=30)
    parser.add_argument("--base-epochs", type=float, default=20)
    parser.add_argument("--evaluations", type=int, default=evaluations)
    parser.add_argument("--batch-size", type=int, default=128, help="of all trainings")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    return parser


def make_arguments(asked: argparse.Namespace) -> Arguments:
    """Make the arguments of the network and data that the parsed setting names."""
    setting = SETTINGS[asked.setting]
    return Arguments(
        asked.work, asked.out, asked.tier, asked.seeds, asked.epochs, asked.base_epochs, setting.macs,
        setting.network, setting.dataset, asked.precision, batch_size=asked.batch_size,
    )  # fmt: skip


class Experiment:
    """All arms of one seed."""

    def __init__(
        self, arguments: Arguments, sections: dict[str, Any], table: "Table", seed: int,
        rate: float = RATE, distillation: float = WEIGHT, val_limit: int = 2000,
    ) -> None:  # fmt: skip
        self.arguments, self.sections, self.table, self.seed = arguments, sections, table, seed
        self.rate, self.distillation, self.val_limit = rate, distillation, val_limit
        self.has_ladder = "ladder" not in sections
        self.runs = arguments.work / f"runs-{arguments.out.stem}-{arguments.tier}-{arguments.epochs:g}"

    def run(self, arm: str) -> dict[str, Any]:
        """Run an arm; return its row."""
        start = time.process_time()
        if arm == "search" and not self.has_ladder:
            row = self._train_best()
        elif arm in ("search", "random"):
            row = self._search("blended" if arm == "search" else "random", self.arguments.epochs)
        elif arm.startswith("torch-pruning"):
            row = self._search("torch-pruning", self._count_epochs(), is_plain=arm.endswith("as used"))
        else:
            epochs = self.arguments.epochs if arm == "rule" else self._count_epochs()
            ending = (" uniform",) if arm.startswith("uniform") else WIDTHS
            row = self._train_rule(epochs, ending, is_random=arm.startswith("scratch"))
        return {"seed": self.seed, **row, "processor_seconds": round(time.process_time() - start, 1)}

    def _search(self, method: str, epochs: float, *, is_plain: bool = False) -> dict[str, Any]:
        run = self._run_method(method, epochs, is_plain=is_plain)
        summary = summarize_run(run)
        best, macs = summary.finals[0], run.structure["dense"]["macs"]
        if summary.ladder is not None:
            cost = summary.ladder.cost
            total = cost.evaluations + cost.probes + cost.rungs + cost.finals
        else:
            with run.open_store(read_only=True) as store:
                evaluations = compute_evaluation_cost(run, store.read_bare_evaluations())
            total = evaluations + self._compute_cost(round(best.macs_ratio * macs), epochs)
        return self._make_row(
            best.origin, best.val_accuracy, best.test_accuracy, best.macs_ratio, best.params_ratio, total, epochs
        )

    def _run_method(self, method: str, epochs: float, *, is_plain: bool = False) -> Run:
        """Search with a method; `is_plain` leaves refit and distillation out and tunes at the rate `PLAIN_RATE`."""
        name = f"{method}{'-plain' * is_plain}-{self.seed}"
        tree = make_config(self.arguments).model_dump(mode="json", exclude_defaults=True)
        tree["model"] = tree["model"] | {"weights": str(get_weights_path(self.arguments)), "train": None}
        tree["data"] |= {"val_limit": self.val_limit}
        tree["criteria"] = tree["criteria"] | {"pool": list(POOL)}
        tree["finals"] = {
            "picks": int(self.has_ladder or method != "blended"),
            "distillation": 0.0 if is_plain else self.distillation,
            "tuning": {
                "epochs": epochs,
                "rate": PLAIN_RATE if is_plain else self.rate,
                "warmup": 0.05,
                "batch_size": self.arguments.batch_size,
            },
        }
        tree |= {"method": method, "seed": self.seed} | self.sections
        if is_plain:
            tree["fitness"] = tree.get("fitness", {}) | {"repair": "none"}
        if method == "torch-pruning":
            tree |= {"criteria": {"pool": ["l1"]}, "search": {"evaluations": 1}}
        return run_config(tree, self.runs, name)

    def _train_best(self) -> dict[str, Any]:
        """Search without trainings, then train the network of the least loss."""
        run = self._run_method("blended", self.arguments.epochs)
        best, total = self._choose_best(run)
        print(f"searched with seed {self.seed}", flush=True)  # other processes may train the other arms meanwhile
        return self._train_row(run, best, self.arguments.epochs) | {"total_macs": total}

    def _choose_best(self, run: Run) -> tuple[Evaluation, float]:
        """Return the network of the least loss, and the cost of the search and of this network's training."""
        with run.open_store(read_only=True) as store:
            rows, promotions = store.read_evaluations(), store.read_promotions()
        searched = compute_evaluation_cost(run, rows) + compute_promotion_cost(run, rows, promotions)
        best = min(select_highest_fidelity(rows, promotions), key=lambda row: (row.loss, row.id))
        return best, searched + self._compute_cost(best.macs, self.arguments.epochs)

    def _train_rule(self, epochs: float, ending: tuple[str, ...], *, is_random: bool) -> dict[str, Any]:
        run = open_run(self.runs, f"blended-{self.seed}")
        with run.open_store(read_only=True) as store:
            rows = [row for row in select_evaluated(store.read_evaluations()) if is_known_rule(row.origin, ending)]
        return self._train_row(run, min(rows, key=lambda row: (row.loss, row.id)), epochs, is_random=is_random)

    def _train_row(self, run: Run, row: Evaluation, epochs: float, *, is_random: bool = False) -> dict[str, Any]:
        """Train an evaluated network from its slice of the dense one, or from random weights."""
        problem = restore(run)
        cut = unpack_cut(row.cut, problem.structure.maps.channels)
        outcome = self._train(problem, cut, epochs, is_random=is_random)
        dense = run.structure["dense"]
        ratios = row.macs / dense["macs"], row.params / dense["params"]
        cost = self._compute_cost(row.macs, epochs)
        return self._make_row(row.origin, 1 - outcome[0], 1 - outcome[1], *ratios, cost, epochs)

    def _train(self, problem: Problem, cut: Cut, epochs: float, *, is_random: bool) -> tuple[float, float]:
        evaluator = problem.evaluator
        recipe = dataclasses.replace(evaluator.recipe, final=dataclasses.replace(evaluator.recipe.final, epochs=epochs))
        store = FolderStore(self.runs / f"training-{self.seed}")
        held = dataclasses.replace(evaluator, recipe=recipe, store=store)
        if is_random:
            held = dataclasses.replace(held, tuned=make_random_model(problem, self.seed), refitter=None)
        request = make_request(cut, "final", self.seed, "both", repeat=int(is_random) + 2 * round(epochs))
        outcome = held.evaluate(request)
        store.delete(request.key)
        if outcome.test is None:
            sys.exit(f"a training failed: {outcome.failure}")
        return outcome.error, outcome.test[1]

    def _count_epochs(self) -> float:
        """Return the epochs of the rule's network that cost as much as the whole search."""
        if self.has_ladder:
            total = self.table.get("search", self.seed)["total_macs"]
        else:
            _, total = self._choose_best(open_run(self.runs, f"blended-{self.seed}"))
        one = self._compute_cost(round(self.arguments.macs * self._read_dense_macs()), 1.0)
        return round(float(total / one), 2)

    def _read_dense_macs(self) -> int:
        return int(open_run(self.runs, f"blended-{self.seed}").structure["dense"]["macs"])

    def _compute_cost(self, macs: int, epochs: float) -> float:
        images = open_run(self.runs, f"blended-{self.seed}").structure["images"]["train"]
        return compute_training_cost(macs, Schedule(epochs, self.rate), images)

    @staticmethod
    def _make_row(
        origin: str, val: float, test: float, macs: float, params: float, total: float, epochs: float
    ) -> dict[str, Any]:
        return {
            "network": origin,
            "test": round(100 * test, 2),
            "val": round(100 * val, 2),
            "macs_kept": round(macs, 4),
            "params_kept": round(params, 4),
            "total_macs": total,
            "epochs": epochs,
        }


def is_known_rule(origin: str, ending: tuple[str, ...] = WIDTHS) -> bool:
    """Return whether an evaluation is of one criterion with uniform or global widths, which needs no search.

    An evaluation that several baselines share has their names joined.
    """
    names = origin.split(" = ")
    return any(name.endswith(ending) and "blend" not in name for name in names)


class Table:
    """The rows of all arms, written after each; a row that is there is not made again."""

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        self.path, self.facts = path, facts
        self.arms: dict[str, list[dict[str, Any]]] = {}
        if path.exists():
            self.arms = {item["name"]: item["seeds"] for item in json.loads(path.read_text())["arms"]}

    def has(self, arm: str, seed: int) -> bool:
        return any(row["seed"] == seed for row in self.arms.get(arm, []))

    def get(self, arm: str, seed: int) -> dict[str, Any]:
        return next(row for row in self.arms[arm] if row["seed"] == seed)

    def add(self, arm: str, **row: Any) -> None:
        self.arms.setdefault(arm, []).append(row)
        print(arm, row, flush=True)
        arms = [{"name": name, "seeds": rows} for name, rows in self.arms.items()]
        content = self.facts | {"arms": arms, "paired": self._compare()}
        self.path.write_text(json.dumps(content, indent=1) + "\n")

    def _compare(self) -> list[dict[str, Any]]:
        """Compare `search` with each other arm over the seeds that both have."""
        found = []
        own = {row["seed"]: row["test"] for row in self.arms.get("search", [])}
        for name, rows in self.arms.items():
            differences = [own[row["seed"]] - row["test"] for row in rows if row["seed"] in own]
            if name == "search" or not differences:
                continue
            interval = compare_paired(differences, [0.0] * len(differences))
            mean, half = interval["mean"], interval["half_width"]
            low, high = (None, None) if math.isnan(half) else (round(mean - half, 2), round(mean + half, 2))
            entry = {"arm": name, "difference": round(mean, 2), "low": low, "high": high, "seeds": len(differences)}
            found.append(entry)
        return found


if __name__ == "__main__":
    main()
