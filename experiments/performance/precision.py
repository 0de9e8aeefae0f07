"""Compare evaluations in bfloat16 with those in float32: the order of candidates, and the time.

    python experiments/performance/precision.py [--case digits|resnet56] [--candidates 30] [--images 500]
        [--work DIR] [--shared DIR] [--threads 1] [--out precision.json]

- digits: the digits example, with its base network trained first.
- resnet56: ResNet-56 on CIFAR-10, settings of `experiments/main_job/resnet56.yaml`, `--images` validation and as many
  recalibration images, without refit. `DIR` holds the unpacked images; where it is left out, they are unpacked from
  `--shared`. Validation images are from the test set, since the weights have memorised the training set.

Draws random genomes at the budget and evaluates their cuts in both precisions, in alternation. Prints Kendall's tau of
the losses, that of the errors, and how often the better one of two candidates is the same where the losses differ by
more than 0.05; tau between two sets of images of half the size in float32 is printed for comparison: it shows what
the choice of images changes. The time is in processor seconds; a CPU without bfloat16 instructions is slower in
bfloat16.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe_machine
from numpy.typing import NDArray
from scipy.stats import kendalltau

from blendsearch.data.split import Subset
from blendsearch.events import ignore_event
from blendsearch.fitness.evaluator import Evaluator, make_request
from blendsearch.pipeline.problem.builder import build_problem
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.runs.config.loading import load_config
from blendsearch.structure.groups import Cut

HERE = Path(__file__).parent
PRECISIONS = ("float32", "bfloat16")
CLEAR = 0.05
"""Difference of two losses above which the order of two candidates is clear."""


def make_digits(images: int, work: Path | None, shared: Path) -> Problem:
    return build_problem(load_config(None, ["fitness.device=cpu", "finals.picks=0"]), ignore_event)


def make_resnet56(images: int, work: Path | None, shared: Path) -> Problem:
    with tempfile.TemporaryDirectory() as temporary:
        if work is None:
            work = Path(temporary)
            subprocess.run([sys.executable, shared / "unpack.py", "cifar10", work], check=True)
        os.environ |= {"SHARED": str(shared.resolve()), "DATA": str(work.resolve())}
        few = [f"data.val_limit={images}", f"fitness.recalibration_images={images}", "fitness.device=cpu"]
        few += ["fitness.repair=none", "criteria.images=64", "criteria.pool=[l1, fpgm, bn_gamma, taylor_gate, fisher]"]
        return build_problem(load_config(HERE.parent / "main_job" / "resnet56.yaml", few), ignore_event)


CASES = {"digits": make_digits, "resnet56": make_resnet56}


def measure_case(problem: Problem, candidates: int) -> dict[str, Any]:
    """Evaluate random cuts in both precisions."""
    cuts = draw_cuts(problem, candidates)
    evaluators = {name: set_precision(problem.evaluator, name) for name in PRECISIONS}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in PRECISIONS}
    seconds: dict[str, list[float]] = {name: [] for name in PRECISIONS}
    for evaluator in evaluators.values():
        evaluator.warm_up_evaluation()
    for number, cut in enumerate(cuts):
        request = make_request(cut, problem.config.fitness.fidelity, 0)
        for name in PRECISIONS if number % 2 else PRECISIONS[::-1]:
            start = time.process_time()
            outcome = evaluators[name].evaluate(request)
            seconds[name].append(time.process_time() - start)
            found[name].append((outcome.loss, outcome.error))
    plain, short = (np.array(found[name]) for name in PRECISIONS)
    ratios = np.divide(seconds["bfloat16"], seconds["float32"])
    return {
        "candidates": len(cuts),
        "validation_images": len(problem.evaluator.splits.val),
        "tau_losses": round(float(kendalltau(plain[:, 0], short[:, 0]).statistic), 3),
        "tau_errors": round(float(kendalltau(plain[:, 1], short[:, 1]).statistic), 3),
        "tau_losses_halves_of_images": round(compare_halves(evaluators["float32"], problem, cuts), 3),
        "same_order_of_clear_pairs": compare_pairs(plain[:, 0], short[:, 0]),
        "losses": [round(float(end), 4) for end in (plain[:, 0].min(), plain[:, 0].max())],
        "largest_difference_of_losses": round(float(np.abs(plain[:, 0] - short[:, 0]).max()), 4),
        "same_best": bool(plain[:, 0].argmin() == short[:, 0].argmin()),
        "seconds_per_evaluation": {name: round(float(np.median(spent)), 3) for name, spent in seconds.items()},
        "time_ratio": round(float(np.median(ratios)), 3),
        "time_ratio_quartiles": [round(float(end), 3) for end in np.quantile(ratios, (0.25, 0.75))],
    }


def draw_cuts(problem: Problem, count: int) -> list[Cut]:
    """Draw `count` different cuts at the budget."""
    rng, found = np.random.default_rng(0), dict[bytes, Cut]()
    while len(found) < count:
        cut = problem.decoder.decode(problem.decoder.space.sample(rng))
        found[cut.tobytes()] = cut
    return list(found.values())


def set_precision(evaluator: Evaluator, name: str) -> Evaluator:
    return dataclasses.replace(evaluator, recipe=dataclasses.replace(evaluator.recipe, precision=name))


def compare_halves(evaluator: Evaluator, problem: Problem, cuts: list[Cut]) -> float:
    """Compute Kendall's tau between the losses on one half of the validation images and on the other."""
    order, losses = np.random.default_rng(1).permutation(len(evaluator.splits.val)), []
    halves = [Subset(evaluator.splits.val, np.sort(part)) for part in np.array_split(order, 2)]
    parts = [dataclasses.replace(evaluator, splits=dataclasses.replace(evaluator.splits, val=half)) for half in halves]
    for cut in cuts:
        request = make_request(cut, problem.config.fitness.fidelity, 0)
        network = evaluator.build_network(request)
        losses.append([part.measure(network, "val")[0] for part in parts])
    one, other = np.array(losses).T
    return float(kendalltau(one, other).statistic)


def compare_pairs(plain: NDArray[np.float64], short: NDArray[np.float64]) -> list[int]:
    """Count the pairs with a clear difference in float32 that have the same order in bfloat16, and all of them."""
    difference, other = np.subtract.outer(plain, plain), np.subtract.outer(short, short)
    clear = np.triu(np.abs(difference) > CLEAR, 1)
    return [int((np.sign(difference) == np.sign(other))[clear].sum()), int(clear.sum())]


def has_bfloat16() -> bool:
    """Return True where the processor multiplies bfloat16 in hardware."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=sorted(CASES))
    parser.add_argument("--candidates", type=int, default=30)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--work", type=Path, help="folder of the unpacked CIFAR-10")
    parser.add_argument("--shared", type=Path, default=HERE.parents[2] / "shared" / "data")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    results["machine"] = f"{describe_machine()}, bfloat16 in hardware: {'yes' if has_bfloat16() else 'no'}"
    for name in [arguments.case] if arguments.case else CASES:
        if name == "resnet56" and arguments.work is None and not arguments.shared.exists():
            print(f"{name} is left out: no data at {arguments.shared}")
            continue
        problem = CASES[name](arguments.images, arguments.work, arguments.shared)
        results[name] = measure_case(problem, arguments.candidates)
        print(json.dumps({name: results[name]}, indent=1), flush=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
