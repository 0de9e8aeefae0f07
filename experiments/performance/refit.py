"""Measure the cost of the refit relative to an evaluation without it, and the network's accuracy with and without it.

    python experiments/performance/refit.py [--case resnet18|resnet56] [--work DIR] [--repeats 3]

- resnet18: torchvision's ResNet-18 with random weights on random images of 224 px. Only times matter there.
- resnet56: ResNet-56 on CIFAR-10, settings of `experiments/main_job/resnet56.yaml`. `DIR` holds cifar10-train.npz and
  cifar10-test.npz, as `unpack.py` of the shared data writes them. Validation images are from the test set, since the
  weights have memorised the training set.

Each repetition times both parts in alternation, in processor seconds of one thread; the least of each part counts. An
evaluation cuts, recalibrates on 512 images and evaluates on `VALIDATION` images. For resnet18 it is timed on a quarter
of the images, four times which is reported. Cuts are uniform by the L1 norm. "seconds_per_image" is that of a forward
pass of the cut network in an evaluation.
"""

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn

from blendsearch.data.split import ArraySplit, Subset
from blendsearch.data.splits import Splits
from blendsearch.fitness.evaluator import Evaluator, make_request
from blendsearch.pipeline.problem.inputs import build_dense_network, build_splits
from blendsearch.runs.config.loading import load_config
from blendsearch.structure.groups import Cut, IndexMaps
from blendsearch.structure.surgery import narrow
from blendsearch.structure.trace import trace_structure
from blendsearch.training import refit
from blendsearch.training.device import convert_to_channels_last
from blendsearch.training.recovery import Recipe
from blendsearch.training.refit import RefitOptions, make_refitter
from blendsearch.training.schedule import Schedule

HERE = Path(__file__).parent
RECALIBRATION = 512
VALIDATION = {"resnet18": 512, "resnet56": 2000}
TIMED_SHARE = {"resnet18": 0.25, "resnet56": 1.0}
"""Share of the images on which an evaluation is timed."""

KEPT_SHARES = {"resnet18": (0.7,), "resnet56": (0.7, 0.55)}
"""Shares of the channels of each group that cuts keep: 0.7 is about half of the multiply-accumulates."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=sorted(VALIDATION))
    parser.add_argument("--work", type=Path, help="folder of the decoded CIFAR-10")
    parser.add_argument("--shared", type=Path, default=HERE.parents[2] / "shared" / "data")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=refit.IMAGES, help="images on which layers are fitted")
    parser.add_argument("--rows", type=int, default=refit.ROWS_PER_INPUT, help="fitted outputs per input")
    parser.add_argument("--min-rows", type=int, default=refit.MIN_ROWS, help="least number of fitted outputs")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    refit.IMAGES, refit.ROWS_PER_INPUT, refit.MIN_ROWS = arguments.images, arguments.rows, arguments.min_rows
    refit.MIN_ROWS_PER_INPUT = min(refit.MIN_ROWS_PER_INPUT, arguments.rows)
    makers: dict[str, Callable[[], Evaluator]] = {
        "resnet18": make_resnet18,
        "resnet56": lambda: make_resnet56(arguments.shared, arguments.work),
    }
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for case in [arguments.case] if arguments.case else makers:
        evaluator = makers[case]()
        name = f"{case}, {arguments.images} images, {arguments.rows} rows per input, at least {arguments.min_rows}"
        results[name] = measure_case(evaluator, case, arguments.repeats)
        print(json.dumps({name: results[name]}, indent=1), flush=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


def make_resnet18() -> Evaluator:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).eval()
    rng = np.random.default_rng(0)
    count = max(RECALIBRATION, VALIDATION["resnet18"])
    split = ArraySplit(rng.integers(0, 256, (count, 224, 224, 3), dtype=np.uint8), rng.integers(0, 1000, count))
    splits = Splits(split, split, split, 1000, np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32), (), "")
    return make_evaluator(model, splits, TIMED_SHARE["resnet18"])


def make_resnet56(shared: Path, work: Path) -> Evaluator:
    os.environ |= {"SHARED": str(shared.resolve()), "DATA": str(work.resolve())}
    settings = [f"data.val_limit={VALIDATION['resnet56']}", "fitness.device=cpu"]
    config = load_config(HERE.parent / "main_job" / "resnet56.yaml", settings)
    return make_evaluator(build_dense_network(config), build_splits(config), TIMED_SHARE["resnet56"])


def make_evaluator(model: nn.Module, splits: Splits, timed: float) -> Evaluator:
    height, width, channels = splits.train.shape
    splits = dataclasses.replace(splits, val=Subset(splits.val, np.arange(round(timed * len(splits.val)))))
    recipe = Recipe(round(timed * RECALIBRATION), 64, Schedule(1, 0.01), Schedule(1, 0.01))
    maps = trace_structure(model, (channels, height, width)).maps
    return Evaluator(model, maps, splits, recipe, torch.device("cpu"))


def measure_case(evaluator: Evaluator, case: str, repeats: int) -> dict[str, Any]:
    start = time.process_time()
    refitter = make_refitter(
        evaluator.model,
        evaluator.maps,
        evaluator.splits,
        images=RECALIBRATION,
        device=evaluator.device,
        options=RefitOptions(recalibration=True),
    )
    preparing = round(time.process_time() - start, 2)
    refitted = dataclasses.replace(evaluator, refitter=refitter)
    rows = [measure_cut(refitted, share, TIMED_SHARE[case], repeats) for share in KEPT_SHARES[case]]
    return {"preparing_seconds": preparing, "refit_images": len(refitter.images), "cuts": rows}


def measure_cut(refitted: Evaluator, share: float, timed: float, repeats: int) -> dict[str, Any]:
    """Measure the refit and the evaluation without it for one cut, and the accuracy (%) without and with refit."""
    assert refitted.refitter is not None
    maps, evaluator = refitted.maps, dataclasses.replace(refitted, refitter=None)
    cut = cut_uniformly(evaluator.model, maps, share)
    request = make_request(cut, "recalibrated", 0)
    evaluations, refits = [], []
    for _ in range(repeats):
        start = time.process_time()
        bare = evaluator.evaluate(request)
        evaluations.append((time.process_time() - start) / timed)
        module = convert_to_channels_last(narrow(evaluator.model, maps, cut))
        start = time.process_time()
        refitted.refitter(maps, cut, module)
        refits.append(time.process_time() - start)
    images = RECALIBRATION + len(evaluator.splits.val) / timed
    row: dict[str, Any] = {
        "kept_share": share,
        "evaluation": round(min(evaluations), 2),
        "refit": round(min(refits), 2),
        "ratio": round(min(refits) / min(evaluations), 3),
        "seconds_per_image": round(min(evaluations) / images, 4),
    }
    if evaluator.splits.classes < 100:  # the weights are trained
        row["accuracy"] = [round(100 - 100 * outcome.error, 2) for outcome in (bare, refitted.evaluate(request))]
    return row


def cut_uniformly(model: nn.Module, maps: IndexMaps, share: float) -> Cut:
    """Cut every group to `share` of its channels, those with the largest L1 norm of all their weights."""
    cut, tensors = maps.make_unpruned_cut(), model.state_dict()
    for group, start in zip(maps.groups, maps.offsets[:-1], strict=True):
        norms = np.zeros(group.channels)
        for member in group.select_members("out"):
            if member.tensor not in tensors:
                continue
            weight = tensors[member.tensor].abs().movedim(member.dim, 0)
            norms += weight.reshape(len(weight), -1).sum(dim=1).numpy()[member.index].sum(axis=1)
        removed = np.argsort(norms, kind="stable")[: group.channels - max(1, round(share * group.channels))]
        cut[start + removed] = False
    return cut


if __name__ == "__main__":
    main()
