"""Measure gradient criteria on images that the network has memorised, and corrections for it.

    python experiments/memorised_images.py --data DIR [--weights FILE] [--images 512]

ResNet-56 on CIFAR-10 was trained on all 50,000 training images. Gradient criteria read training images unchanged, with
the logits divided by a temperature, augmented (flip, and crop after padding by four), and both; for comparison unseen
images from the second half of the test set. Each criterion then keeps half of every block's inner channels. Batch-norm
statistics are estimated again on 1,024 training images, and accuracy is measured on 2,000 images from the first half of
the test set. `DIR` holds cifar10-train.npz and cifar10-test.npz, each with x (N, 32, 32, 3) in uint8 and y. Writes a
JSON file beside this script.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor, nn

from blendsearch.criteria.registry import select_criteria
from blendsearch.criteria.score import compute_score_table
from blendsearch.criteria.table import ScoreTable
from blendsearch.structure.surgery import narrow
from blendsearch.structure.trace import Structure, trace_structure
from blendsearch.zoo.factory import build_model

CRITERIA = ("taylor_weight", "taylor_gate", "taylor_gamma", "snip", "fisher", "obd")
TEMPERATURES = (1.0, 2.0, 4.0, 8.0)
SEEDS = (0, 1)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=SHARED / "cifar10-resnet56.safetensors")
    parser.add_argument("--images", type=int, default=512, help="calibration images")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    asked = parser.parse_args()
    if not asked.weights.exists():
        sys.exit(f"no weights at {asked.weights}: pass --weights")
    torch.set_num_threads(2)
    model = build_model("cifar_resnet", {"depth": 56})
    model.load_state_dict(load_file(asked.weights))
    model.eval()
    structure = trace_structure(model, (3, 32, 32))
    train, test = load_halves(asked.data, "train")[0], load_halves(asked.data, "test")
    meter = AccuracyMeter(model, structure, train, test[0])

    rows: list[dict[str, object]] = []
    table = compute_score_table(model, structure, select_criteria(["l1"]), lambda: [], np.random.default_rng(0))
    rows.append({"images": "none", "temperature": 1.0, "l1": round(meter.accuracy(table, 0), 2)})
    print(rows[-1], flush=True)
    for source, augmented, temperatures in (
        ("training", False, TEMPERATURES),
        ("training", True, TEMPERATURES),
        ("unseen", False, (1.0, 4.0)),
    ):
        for temperature in temperatures:
            found: dict[str, list[float]] = {name: [] for name in CRITERIA}
            for seed in SEEDS:
                rng = np.random.default_rng(seed)
                images, labels = (train if source == "training" else test[1]).some(asked.images, rng)
                images = augment(images, rng) if augmented else images
                batches = list(zip(images.split(128), labels.split(128), strict=True))
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    table = compute_score_table(
                        model, structure, select_criteria(CRITERIA), lambda b=batches: b, rng, temperature
                    )
                for number, name in enumerate(CRITERIA):
                    found[name].append(meter.accuracy(table, number))
            means = {name: round(float(np.mean(values)), 2) for name, values in found.items()}
            rows.append({"images": source + (", augmented" if augmented else ""), "temperature": temperature, **means})
            print(rows[-1], flush=True)
    asked.out.write_text(
        json.dumps({"calibration_images": asked.images, "seeds": len(SEEDS), "rows": rows}, indent=1) + "\n"
    )
    print_rows(rows)


class Images:
    """Images of one split and half, in an order shuffled once."""

    def __init__(self, x: NDArray[np.uint8], y: NDArray[np.int64]) -> None:
        self.x, self.y = x, y

    def some(self, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        chosen = rng.permutation(len(self.x))[:count]
        scaled = torch.from_numpy(self.x[chosen]).permute(0, 3, 1, 2).float() / 255
        normal = (scaled - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        return normal.contiguous(), torch.from_numpy(self.y[chosen])


def load_halves(folder: Path, split: str) -> tuple[Images, Images]:
    """Load first and second half of a split, shuffled once because the files are sorted by class."""
    with np.load(folder / f"cifar10-{split}.npz") as file:
        x, y = file["x"], file["y"].astype(np.int64)
    order = np.random.default_rng(56).permutation(len(x))
    first, second = np.split(order, 2)
    return Images(x[first], y[first]), Images(x[second], y[second])


def augment(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Mirror each image with probability one half, pad it by four normalised zeros and crop it at random."""
    padded = nn.functional.pad(images, (4, 4, 4, 4))
    out = []
    for image, flip, (row, column) in zip(
        padded, rng.random(len(images)) < 0.5, rng.integers(0, 9, (len(images), 2)), strict=True
    ):
        crop = image[:, row : row + 32, column : column + 32]
        out.append(crop.flip(2) if flip else crop)
    return torch.stack(out)


class AccuracyMeter:
    """Accuracy after recalibration of the network with the better half of every block's inner channels."""

    def __init__(self, model: nn.Module, structure: Structure, train: Images, test: Images) -> None:
        self.model, self.structure = model, structure
        rng = np.random.default_rng(99)
        self.recalibration = train.some(1024, rng)[0].split(256)
        self.images, self.labels = test.some(2000, rng)

    def accuracy(self, table: ScoreTable, criterion: int) -> float:
        """Measure accuracy in per cent."""
        maps = self.structure.maps
        cut = maps.make_unpruned_cut()
        for group, start, scores in zip(maps.groups, maps.offsets, table.scores, strict=False):
            if group.name.startswith("layer") and group.name.endswith("conv1"):
                worst = np.argsort(np.nan_to_num(scores[criterion]), kind="stable")[: group.channels // 2]
                cut[start + worst] = False
        small = narrow(self.model, maps, cut)
        recalibrate(small, self.recalibration)
        with torch.inference_mode():
            predicted = torch.cat([small(batch).argmax(1) for batch in self.images.split(500)])
        return 100 * float((predicted == self.labels).float().mean())


def recalibrate(model: nn.Module, batches: tuple[Tensor, ...]) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain mean over batches
    model.train()
    with torch.no_grad():
        for batch in batches:
            model(batch)
    model.eval()


def print_rows(rows: list[dict[str, object]]) -> None:
    table = Table("images", "temperature", "l1", *CRITERIA)
    for row in rows:
        table.add_row(*(str(row.get(name, "")) for name in ("images", "temperature", "l1", *CRITERIA)))
    Console().print(table)


if __name__ == "__main__":
    main()
