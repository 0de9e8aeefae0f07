"""Removal of whole blocks at a budget of latency: searches with and without their genes, after equal training.

    python experiments/after_training/blocks.py SETTING --work DIR [--tier small|full] [--seeds 2] [--epochs 4]

Every seed searches twice at the same share of the dense network's latency (ONNX Runtime, one image), with as many
evaluations and with one latency model, that of the search with blocks. The network of least loss of each is trained by
the same recipe. At the end both are timed in turns with the dense network, by their fastest passes, which other
processes disturb least. `blocks-SETTING.json` has the rows of both arms, written after every training, and the
difference in points for each seed; a run that was stopped continues.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compare import POOL, RATE, WEIGHT, make_arguments, make_parser

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from setting import Arguments, get_weights_path, load_problem, make_config

from blendsearch.engine.local import LocalEngine
from blendsearch.events import ignore_event
from blendsearch.fitness import latency_benchmark
from blendsearch.fitness.evaluator import make_request
from blendsearch.fitness.latency_benchmark import measure_fastest_passes
from blendsearch.pipeline.loop import search
from blendsearch.pipeline.problem.builder import build_problem
from blendsearch.pipeline.problem.costs import make_conditions
from blendsearch.pipeline.problem.persistence import record, restore
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.runs.config.loading import parse_config
from blendsearch.runs.origin import DENSE
from blendsearch.runs.pareto import select_evaluated
from blendsearch.runs.records import Evaluation
from blendsearch.runs.run import Run, open_run
from blendsearch.structure.groups import unpack_cut
from blendsearch.training.training_store import FolderStore

ARMS = {"blocks": True, "widths alone": False}
"""`search.blocks` of each arm; the latency model is that of the first."""

ROUNDS = 5
"""Times that both networks of a seed are timed, in turns."""


def main() -> None:
    asked = parse_arguments()
    arguments = make_arguments(asked)
    torch.set_num_threads(1)
    # on a machine with other work, medians of passes fit no latency model
    latency_benchmark.measure_latencies = measure_fastest_passes
    load_problem(arguments)  # trains the base network once
    names = ("setting", "tier", "epochs", "evaluations", "latency")
    table = Table(asked.out, {name: vars(asked)[name] for name in names})
    for seed in range(asked.seeds):
        for arm in ARMS:
            if not table.find(arm, seed):
                run, problem, row = search_arm(arguments, asked, arm, seed)
                table.add({"arm": arm, "seed": seed, **train_row(run, problem, row, asked.epochs)})
        if any("latency" not in table.find(arm, seed) for arm in ARMS):
            for arm, share in measure_arms(arguments, asked, seed).items():
                table.find(arm, seed)["latency"] = share
            table.write()


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__.splitlines()[0], seeds=2, evaluations=100)
    parser.add_argument("--latency", type=float, default=0.5, help="share of the dense network's latency")
    parser.add_argument("--cuts", type=int, default=60, help="networks on which the latency model is fitted")
    asked = parser.parse_args()
    asked.out = asked.out or Path(__file__).with_name(f"blocks-{asked.setting}.json")
    return asked


def get_folder(arguments: Arguments, asked: argparse.Namespace) -> Path:
    return Path(arguments.work / f"runs-{asked.out.stem}-{asked.tier}-{asked.evaluations}-{asked.latency:g}")


def search_arm(arguments: Arguments, asked: argparse.Namespace, arm: str, seed: int) -> tuple[Run, Problem, Evaluation]:
    """Search, or resume, and return the evaluation of least loss."""
    folder, name = get_folder(arguments, asked), f"{arm.replace(' ', '-')}-{seed}"
    if (folder / name).exists():
        run = open_run(folder, name)
        problem = restore(run)
    else:
        first = f"{next(iter(ARMS))}-{seed}"
        base = None if name == first else open_run(folder, first)
        problem = build_problem(make_arm_config(arguments, asked, arm, seed), print, base)
        run = record(problem, folder, name, ["blocks.py"])
    if not run.finished:
        engine = LocalEngine(problem.evaluator)
        with run.lock():
            search(run, problem, engine, ignore_event)
        engine.close()
    with run.open_store(read_only=True) as store:
        rows = select_evaluated(store.read_evaluations())
    return run, problem, min((row for row in rows if row.origin != DENSE), key=lambda row: (row.loss, row.id))


def make_arm_config(arguments: Arguments, asked: argparse.Namespace, arm: str, seed: int) -> Any:
    tree = make_config(arguments).model_dump(mode="json", exclude_defaults=True)
    tree["model"] = tree["model"] | {"weights": str(get_weights_path(arguments)), "train": None}
    tree["data"] |= {"val_limit": 2000}
    tree |= {
        "criteria": {"pool": list(POOL)},
        "budget": {"latency": asked.latency, "measured": {"runtime": "onnxruntime", "cuts": asked.cuts}},
        "search": {"evaluations": asked.evaluations, "blocks": ARMS[arm]},
        "finals": {
            "picks": 0,
            "distillation": WEIGHT,
            "tuning": {"epochs": asked.epochs, "rate": RATE, "warmup": 0.05},
        },
        "ladder": {"rungs": []},
        "seed": seed,
    }
    return parse_config(tree, "experiment")


def train_row(run: Run, problem: Problem, row: Evaluation, epochs: float) -> dict[str, Any]:
    """Train the network of an evaluation, and return its row."""
    maps, oracle = problem.structure.maps, problem.structure.oracle
    cut = unpack_cut(row.cut, maps.channels)
    store, recipe = FolderStore(run.path / "training"), problem.evaluator.recipe
    recipe = dataclasses.replace(recipe, final=dataclasses.replace(recipe.final, epochs=epochs))
    request = make_request(cut, "final", run.config.seed, "both", repeat=round(epochs))
    outcome = dataclasses.replace(problem.evaluator, store=store, recipe=recipe).evaluate(request)
    store.delete(request.key)
    if outcome.test is None:
        sys.exit(f"a training failed: {outcome.failure}")
    counts = maps.count_kept(cut)
    return {
        "network": row.origin,
        "loss": round(row.loss or 0.0, 4),
        "test": round(100 * (1 - outcome.test[1]), 2),
        "val": round(100 * (1 - outcome.error), 2),
        "removed_groups": [maps.groups[number].name for number in np.flatnonzero(counts[: len(maps.groups)] == 0)],
        "macs_kept": round(float(oracle.compute_ratio("macs", counts)), 4),
        "latency_charged": round(float(oracle.compute_ratio("latency", counts)), 4),
    }


def measure_arms(arguments: Arguments, asked: argparse.Namespace, seed: int) -> dict[str, float]:
    """Measure the latency of both networks of a seed as a share of the dense network's, in turns."""
    arms = {arm: search_arm(arguments, asked, arm, seed) for arm in ARMS}
    problem = next(iter(arms.values()))[1]
    maps = problem.structure.maps
    cuts = [unpack_cut(row.cut, maps.channels) for _, _, row in arms.values()]
    height, width, channels = problem.splits.train.shape
    conditions = make_conditions(problem.config.budget, (channels, height, width))
    times = np.stack([measure_fastest_passes(problem.model, maps, cuts, conditions) for _ in range(ROUNDS)]).min(axis=0)
    return dict(zip(arms, (times[:, 1] / times[:, 0].min()).round(4).tolist(), strict=True))


class Table:
    """The rows of both arms, written after each; a row that is there is not made again."""

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        self.path, self.facts = path, facts
        self.rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []

    def find(self, arm: str, seed: int) -> dict[str, Any]:
        return next((row for row in self.rows if (row["arm"], row["seed"]) == (arm, seed)), {})

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        print(row, flush=True)
        self.write()

    def write(self) -> None:
        differences = []
        for seed in sorted({row["seed"] for row in self.rows}):
            pair = [self.find(arm, seed) for arm in ARMS]
            if all(pair):
                differences.append({"seed": seed, "points": round(pair[0]["test"] - pair[1]["test"], 2)})
        self.path.write_text(json.dumps(self.facts | {"differences": differences, "rows": self.rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
