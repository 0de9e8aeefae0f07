"""Search ResNet-56 at 50 % of MACs on CIFAR-10; export, load, count and evaluate every reported network.

    python experiments/main_job/run.py --work DIR [--shared ../shared/data] [--seed 0] [--set FIELD=VALUE ...]

Prints the cost of each reported network by torch's operation counter, and compares its accuracy after loading with the
reported one. Writes both beside this file.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

import blendsearch
import blendsearch.zoo.factory
from blendsearch.structure.cost import count_macs

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where decoded data, runs and exports go")
    parser.add_argument("--shared", type=Path, default=HERE.parents[2] / "shared" / "data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    if not arguments.shared.is_dir():
        sys.exit(f"{arguments.shared} is not there: the experiment needs CIFAR-10 and the weights kept in it")
    work = arguments.work.resolve()
    if not (work / "cifar10-test.npz").exists():
        subprocess.run([sys.executable, arguments.shared / "unpack.py", "cifar10", work], check=True)
    os.environ |= {"SHARED": str(arguments.shared.resolve()), "DATA": str(work)}

    name = f"resnet56-seed{arguments.seed}"
    runs = work / "runs"
    changes = [f"--set={change}" for change in [f"seed={arguments.seed}", *arguments.set]]
    if (runs / name).exists():
        run_verb("resume", name, "--runs", runs)
    else:
        run_verb("search", HERE / "resnet56.yaml", *changes, "--runs", runs, "--name", name)
    found = json.loads(run_verb("front", name, "--runs", runs, "--json", capture=True))
    single = min(row["val_loss"] for row in found["baselines"] if not row["origin"].startswith("equal"))
    networks = [check_export(row, name, runs, work) for row in found["front"]]
    result = {
        "seed": arguments.seed,
        "changes": arguments.set,
        "dense": found["dense"],
        "baselines": found["baselines"],
        "front": networks,
        "best_single_val_loss": single,
        "below_best_single": min(row["val_loss"] for row in networks) < single,
    }
    out = HERE / f"result-seed{arguments.seed}.json"
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def run_verb(*words: object, capture: bool = False) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "blendsearch", *map(str, words)], check=True, text=True, capture_output=capture
    )
    return done.stdout or ""


def check_export(row: dict, name: str, runs: Path, work: Path) -> dict:
    """Add to `row` cost and accuracy of the exported and loaded network, counted without blendsearch."""
    folder = work / "exports" / f"{name}-{row['id']}"
    if not folder.exists():
        run_verb("export", name, "--runs", runs, "--pick", row["id"], "--to", folder)
    module = blendsearch.load(folder)
    dense = blendsearch.zoo.factory.build_model("cifar_resnet", {"depth": 56}).eval()
    image = torch.zeros(1, 3, 32, 32)
    ratio = count_macs(module, image) / count_macs(dense, image)
    accuracy = measure_validation_accuracy(module, work / "cifar10-test.npz", runs / name)
    return row | {"counted_macs_ratio": ratio, "in_budget": 0.495 <= ratio <= 0.5, "loaded_val_accuracy": accuracy}


def measure_validation_accuracy(module: torch.nn.Module, path: Path, run: Path) -> float:
    """Measure accuracy on the run's validation images, read and normalised here."""
    from blendsearch.data.splits import DataSpec, load_splits
    from blendsearch.runs.run import open_run

    config = open_run(run.parent, run.name).config
    split = load_splits(DataSpec(**config.data.model_dump()), config.seed).val
    right = 0
    mean, std = torch.tensor(config.data.mean), torch.tensor(config.data.std)
    with torch.inference_mode():
        for chosen in np.array_split(np.arange(len(split)), 50):
            x = (torch.from_numpy(split.load_images(chosen)) / 255 - mean) / std
            right += int((module(x.permute(0, 3, 1, 2)).argmax(1).numpy() == split.labels[chosen]).sum())
    return right / len(split)


if __name__ == "__main__":
    main()
