"""The network, data and base weights of the training experiments, in two tiers.

`small`: CIFAR-100 at 16 px (means of 2 x 2 pixels), for a machine without an accelerator. `full`: 32 px.
"""

import argparse
import copy
import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file
from scipy import stats

from blendsearch.cli.main import main as run_blendsearch
from blendsearch.events import BaseTrained, Event, ignore_event
from blendsearch.fitness.evaluator import EvaluationSplit, Evaluator, make_request
from blendsearch.pipeline.optimizers.baselines import make_baselines
from blendsearch.pipeline.problem.base_network import train_base
from blendsearch.pipeline.problem.builder import build_problem
from blendsearch.pipeline.problem.inputs import build_dense_network, build_splits
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.runs.config.loading import parse_config
from blendsearch.runs.config.schema import Config
from blendsearch.runs.run import Run, open_run
from blendsearch.structure.groups import Cut, build_index_maps
from blendsearch.task import CLASSIFICATION
from blendsearch.training.device import resolve_device
from blendsearch.training.recovery import Recipe
from blendsearch.training.schedule import Schedule
from blendsearch.training.training_store import FolderStore

SHARED = Path(__file__).parents[3] / "shared" / "data"
SIDES = {"small": 16, "full": 32}

NETWORKS = {
    "vgg19": ("networks:make_vgg", {"depth": 19}),
    "half_vgg11": ("networks:make_vgg", {"depth": 11, "width": 0.5}),
    "half_mobilenet": ("networks:make_mobilenet", {"width": 0.5}),
}
"""Factories and arguments of networks that are not bundled; others are a bundled factory and a depth."""

PUBLIC_WEIGHTS = {("cifar_resnet:56", "cifar10", "full"): SHARED / "cifar10-resnet56.safetensors"}
"""Base weights by network, data and tier. They memorised the training images: validation is half of the test set."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The command line of an experiment."""

    work: Path
    out: Path
    tier: str
    seeds: int
    epochs: float
    base_epochs: float
    macs: float
    network: str
    dataset: str
    precision: str
    only: tuple[str, ...] = ()
    batch_size: int = 128


def parse_arguments(description: str, file: str, **defaults: object) -> Arguments:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--work", type=Path, required=True, help="folder for decoded data and base weights")
    parser.add_argument("--out", type=Path, default=Path(file).with_suffix(".json"))
    parser.add_argument("--tier", choices=SIDES, default="small")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=float, default=12)
    parser.add_argument("--base-epochs", type=float, default=20)
    parser.add_argument("--macs", type=float, default=0.125)
    parser.add_argument("--network", default="cifar_resnet:20")
    parser.add_argument("--dataset", choices=("cifar10", "cifar100"), default="cifar100")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--only", type=lambda text: tuple(text.split(";")), default=(), metavar="NAME;NAME",
        help="arms (staged.py) or cuts (elastic.py) that are trained; default: all",
    )  # fmt: skip
    parser.set_defaults(**defaults)
    return Arguments(**vars(parser.parse_args()))


def make_config(arguments: Arguments) -> Config:
    """Make the config of the experiment's network, data and budget."""
    factory, sizes = _parse_network(arguments.network)
    classes = 100 if arguments.dataset == "cifar100" else 10
    data: dict[str, object] = {name: str(prepare_data(arguments, name)) for name in ("train", "test")}
    augment: list[str] = []
    if _has_public_weights(arguments):
        augment = ["flip", "crop"]
        data |= {"val_from": "test", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    return parse_config(
        {
            "model": {
                "factory": factory,
                "arguments": {**sizes, "classes": classes},
                "train": {
                    "epochs": arguments.base_epochs,
                    "rate": 0.1,
                    "warmup": 0.05,
                    "batch_size": arguments.batch_size,
                },
            },
            "data": {"dataset": "npz", **data, "val_size": 5000, "split_seed": 0, "augment": ["flip", "crop"]},
            "criteria": {"pool": ["l1", "fisher", "taylor_gate"], "augment": augment},
            "budget": {"macs": arguments.macs},
            "fitness": {"precision": arguments.precision, "repair": "refit"},
            "engine": {"threads": 1},
        },
        "experiment",
    )


def _parse_network(network: str) -> tuple[str, dict[str, object]]:
    factory, _, depth = network.partition(":")
    return NETWORKS.get(network) or (factory, {"depth": int(depth)} if depth else {})


def _has_public_weights(arguments: Arguments) -> bool:
    return (arguments.network, arguments.dataset, arguments.tier) in PUBLIC_WEIGHTS


def prepare_data(arguments: Arguments, split: str) -> Path:
    """Decode a split of CIFAR to `work`, at the tier's size."""
    if not SHARED.is_dir():
        sys.exit(f"{SHARED} is not there: the experiment needs CIFAR")
    plain = arguments.work / f"{arguments.dataset}-{split}.npz"
    if not plain.exists():
        arguments.work.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, SHARED / "unpack.py", arguments.dataset, arguments.work], check=True)
    side = SIDES[arguments.tier]
    if side == 32:
        return plain
    small = plain.with_stem(f"{plain.stem}-{side}")
    if not small.exists():
        found = np.load(plain)
        means = found["x"].reshape(-1, 16, 2, 16, 2, 3).mean(axis=(2, 4)).round().astype(np.uint8)
        np.savez(small, x=means, y=found["y"])
    return small


def get_weights_path(arguments: Arguments) -> Path:
    """Return the file of the base weights, which is named after the network, data, tier and epochs, or is public."""
    if _has_public_weights(arguments):
        return PUBLIC_WEIGHTS[arguments.network, arguments.dataset, arguments.tier]
    name = f"{arguments.network.replace(':', '')}-{arguments.dataset}-{arguments.tier}-{arguments.base_epochs:g}"
    return arguments.work / f"{name}.safetensors"


def load_problem(arguments: Arguments, sections: Mapping[str, dict] | None = None) -> Problem:
    """Build the problem with base weights trained once and kept in `work`; `sections` replace those of the config."""
    config, weights = make_config(arguments), get_weights_path(arguments)
    if not weights.exists():
        _train(config, weights)
    tree = config.model_dump(mode="json")
    tree["model"] |= {"weights": str(weights), "train": None}
    return build_problem(parse_config(tree | dict(sections or {}), "experiment"), ignore_event)


def _train(config: Config, weights: Path) -> None:
    torch.set_num_threads(1)
    splits, model, device = build_splits(config), build_dense_network(config), resolve_device("auto")

    def print_progress(event: Event) -> None:
        if isinstance(event, BaseTrained):
            print(f"base {event.done:.0%}, loss {event.loss:.3f}", flush=True)

    store = FolderStore(weights.parent / "base")
    train_base(model.to(device), splits, config, CLASSIFICATION, device, print_progress, store)
    recipe = Recipe(512, 500, Schedule(1, 0.01), Schedule(1, 0.01))
    loss, error = Evaluator(model, build_index_maps([], {}), splits, recipe, device).measure(model, "val")
    print(f"base network: validation accuracy {1 - error:.2%}, loss {loss:.4f}", flush=True)
    save_file({key: value.contiguous().cpu() for key, value in model.state_dict().items()}, weights)
    weights.with_suffix(".json").write_text(json.dumps({"val_accuracy": 1 - error, "val_loss": loss}))


def run_config(tree: dict[str, Any], runs: Path, name: str) -> Run:
    """Search by the config `tree` as run `name` in `runs`; a run that is there already is returned or resumed."""
    runs.mkdir(parents=True, exist_ok=True)
    config = runs / f"{name}.yaml"
    config.write_text(yaml.safe_dump(tree))
    code = run_blendsearch(["search", str(config), "--runs", str(runs), "--name", name, "--or-resume"])
    if code:
        sys.exit(f"the search {name} ended with exit code {code}")
    return open_run(runs, name)


def measure_loss(evaluator: Evaluator, cut: Cut, seed: int, split: EvaluationSplit) -> float:
    """Measure the loss of a recalibrated network on one split."""
    loss = evaluator.evaluate(make_request(cut, "recalibrated", seed, split)).loss
    assert loss is not None
    return loss


def make_cut(problem: Problem, baseline: str = "l1 uniform") -> Cut:
    """Make the cut of a baseline at the config's budget."""
    return problem.decoder.decode(dict(make_baselines(problem.decoder, 1))[baseline])


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path)


def make_random_model(problem: Problem, seed: int) -> torch.nn.Module:
    """Copy the dense network with new random weights."""
    model = copy.deepcopy(problem.model)
    torch.manual_seed(seed)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return model.eval()


class Results:
    """Rows of an experiment, written after each; a row that is there is not made again."""

    def __init__(self, arguments: Arguments, **facts: object) -> None:
        self.path = arguments.out
        stated = {key: value for key, value in vars(arguments).items() if key not in ("work", "out", "only")}
        self.facts = stated | facts
        self.rows: list[dict] = json.loads(self.path.read_text())["rows"] if self.path.exists() else []

    def has(self, **key: object) -> bool:
        return any(key.items() <= row.items() for row in self.rows)

    def add(self, **row: object) -> None:
        self.rows.append(row)
        print(row, flush=True)
        self.write()

    def write(self, **summary: object) -> None:
        self.path.write_text(json.dumps(self.facts | {"summary": summary, "rows": self.rows}, indent=1) + "\n")


def compare_paired(first: Sequence[float], second: Sequence[float]) -> dict[str, float]:
    """Return the mean difference `first - second`, and half of its 95 % interval by the paired t-test."""
    differences = np.subtract(first, second)
    count = len(differences)
    spread = float(differences.std(ddof=1)) if count > 1 else math.nan
    half = float(stats.t.ppf(0.975, count - 1)) * spread / math.sqrt(count) if count > 1 else math.nan
    return {"mean": round(float(differences.mean()), 3), "half_width": round(half, 3), "pairs": count}
