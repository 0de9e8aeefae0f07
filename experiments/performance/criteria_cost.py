"""Measure the cost of criteria: seconds per criterion, and the pool relative to one forward and backward pass.

    python experiments/performance/criteria_cost.py torchvision:resnet50 --images 64 --size 224

Prints for every criterion the seconds it adds: its scoring of all groups, and its probe alone on a few images minus a
plain forward pass over them, scaled to all images. Then the seconds of the plain pass, of the one probe for the whole
pool, and of everything, as a ratio. Images are noise and weights random: no step's time depends on either. Both passes
use the same batches. Writes a JSON file beside this script.
"""

import argparse
import json
import platform
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from blendsearch.criteria.probe import BACKWARD_NEEDS, probe
from blendsearch.criteria.registry import Criterion, select_criteria
from blendsearch.criteria.score import compute_score_table
from blendsearch.criteria.view import GroupView
from blendsearch.structure.trace import Structure, trace_structure
from blendsearch.zoo.factory import build_model

BATCH = 16
FEW = 16
"""Number of images of the probe for one criterion alone; a multiple of the sub-sample's spacing."""

Batches = list[tuple[Tensor, Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a zoo name, torchvision:NAME or module:function")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=2, help="of each measurement the shortest counts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    torch.set_num_threads(asked.threads)
    model = build_model(asked.model).eval()
    structure = trace_structure(model, (3, asked.size, asked.size))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    batches = make_noise(asked.images, asked.size, device)
    criteria = select_criteria()

    time_plain_pass(model, batches[:1])  # the first pass pays for memory and kernels
    passes, wholes = [time_plain_pass(model, batches)], []
    for _ in range(asked.repeats):  # taken in turns, as other users of the machine come and go
        start = time.perf_counter()
        table = compute_score_table(model, structure, criteria, lambda: iter(batches), np.random.default_rng(0))
        wholes.append(measure_seconds(start))
        passes.append(time_plain_pass(model, batches))
    pass_time, whole = min(passes), min(wholes)

    few = make_noise(min(FEW, asked.images), asked.size, device)
    rows = list(time_criteria(model, structure, criteria, batches, few))
    result = {
        "model": asked.model,
        "images": asked.images,
        "size": asked.size,
        "device": torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"{platform.machine()}, {asked.threads} threads",
        "criteria": len(criteria),
        "groups": len(table.groups),
        "all_plain_seconds": [round(spent, 2) for spent in passes],
        "all_pool_seconds": [round(spent, 2) for spent in wholes],
        "plain_seconds": round(pass_time, 2),
        "pool_seconds": round(whole, 2),
        "ratio": round(whole / pass_time, 2),
        "per_criterion": rows,
    }
    asked.out.write_text(json.dumps(result, indent=1) + "\n")
    print_result(result)


def make_noise(images: int, size: int, device: torch.device) -> Batches:
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(images, 3, size, size, generator=drawn).to(device)
    y = torch.randint(0, 10, (images,), generator=drawn).to(device)
    return list(zip(x.split(BATCH), y.split(BATCH), strict=True))


def time_plain_pass(model: nn.Module, batches: Batches, backward: bool = True) -> float:
    """Measure seconds of one forward and backward pass, with gradients of all weights."""
    start = time.perf_counter()
    for images, labels in batches:
        with torch.set_grad_enabled(backward):
            loss = F.cross_entropy(model(images), labels)
        if backward:
            torch.autograd.grad(loss, list(model.parameters()))
    return measure_seconds(start)


def time_criteria(
    model: nn.Module, structure: Structure, criteria: tuple[Criterion, ...], batches: Batches, few: Batches
) -> Iterator[dict[str, object]]:
    """Measure for every criterion the seconds of scoring and of its probe alone."""
    images = sum(len(labels) for _, labels in batches)
    scale = images / sum(len(labels) for _, labels in few)
    full = probe(model, structure.maps, few)
    known: dict[frozenset[str], float] = {}
    for criterion in criteria:
        if criterion.needs not in known and criterion.needs:
            start = time.perf_counter()
            probe(model, structure.maps, few, criterion.needs)
            spent = measure_seconds(start)
            if criterion.needs == {"flow"}:  # not per image
                known[criterion.needs] = spent
            else:
                bare = time_plain_pass(model, few, backward=bool(criterion.needs & BACKWARD_NEEDS))
                known[criterion.needs] = max(0.0, spent - bare) * scale
        start = time.perf_counter()
        with torch.no_grad():
            for group in structure.maps.groups:
                criterion.score(GroupView(model, group, full, 1.0, np.random.default_rng(0)))
        yield {
            "criterion": criterion.name,
            "cost": criterion.cost,
            "scoring_seconds": round(measure_seconds(start), 3),
            "probe_seconds": round(known.get(criterion.needs, 0.0), 2),
            "shares_with": sorted(criterion.needs),
        }


def measure_seconds(start: float) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def print_result(result: dict[str, object]) -> None:
    console = Console()
    table = Table("criterion", "cost", "scoring s", "its probe alone adds s", "needs")
    for row in result["per_criterion"]:  # type: ignore[attr-defined]
        needs = ", ".join(row["shares_with"])
        table.add_row(row["criterion"], row["cost"], str(row["scoring_seconds"]), str(row["probe_seconds"]), needs)
    console.print(table)
    console.print(
        f"{result['model']}, {result['images']} images of {result['size']} px, {result['device']}: "
        f"plain pass {result['plain_seconds']} s, whole pool of {result['criteria']} {result['pool_seconds']} s, "
        f"ratio {result['ratio']}"
    )


if __name__ == "__main__":
    main()
