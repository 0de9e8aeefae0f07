"""Measure the gain of a repair between cutting and recalibration, also after a fine-tune.

    python experiments/repair.py --work DIR [--shared ../shared/data]

ResNet-56 on CIFAR-10, settings of `experiments/main_job/resnet56.yaml` with products in bfloat16: the cuts of four
baselines and of random genomes, at 50 % and 30 % of the multiply-accumulates, evaluated on the same 2,000 validation
images after recalibration on 500 training images, unchanged and refitted; the four at 50 % with other ridges too, and
after a fine-tune on 5,000 training images. The test half is not used. `DIR` holds or receives cifar10-train.npz and
cifar10-test.npz. Rows are written to a JSON file beside this script as they are measured, and stored rows are not
measured again.

Rows named "one-shot" and "merge" are of two repairs that were measured with these settings and then removed: least
squares from the dense network's inputs alone, and merging each removed channel into the kept one that explains most of
it.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import kendalltau

from blendsearch.blend.decoder import Decoder
from blendsearch.events import ignore_event
from blendsearch.fitness.evaluator import Evaluator, make_request
from blendsearch.pipeline.optimizers.baselines import make_baselines
from blendsearch.pipeline.problem.builder import build_problem
from blendsearch.runs.config.loading import load_config
from blendsearch.structure.groups import Cut
from blendsearch.structure.surgery import narrow
from blendsearch.training.refit import RIDGE, RefitOptions, Refitter, make_refitter
from blendsearch.training.schedule import Schedule

HERE = Path(__file__).parent
BASELINES = ("l1 uniform", "fisher global", "equal blend uniform", "taylor_gate global")
BUDGETS = {0.5: 10, 0.3: 4}
"""Share of the multiply-accumulates, and number of random genomes evaluated there."""
RIDGES = (1e-3, 1e-1)
TUNING = Schedule(epochs=1, rate=0.01, images=5000)
SETTINGS = ["data.val_limit=2000", "fitness.precision=bfloat16", "fitness.device=cpu", "engine.threads=1"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="where the decoded data are")
    parser.add_argument("--shared", type=Path, default=HERE.parents[1] / "shared" / "data")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    asked = parser.parse_args()
    if not asked.shared.is_dir():
        sys.exit(f"{asked.shared} is not there: the experiment needs CIFAR-10 and the weights kept in it")
    if not (asked.work / "cifar10-test.npz").exists():
        subprocess.run([sys.executable, asked.shared / "unpack.py", "cifar10", asked.work], check=True)
    os.environ |= {"SHARED": str(asked.shared.resolve()), "DATA": str(asked.work.resolve())}
    problem = build_problem(load_config(HERE / "main_job" / "resnet56.yaml", SETTINGS), ignore_event)
    bare = problem.evaluator
    evaluator = dataclasses.replace(bare, recipe=dataclasses.replace(bare.recipe, tuning=TUNING))

    rows: list[dict] = json.loads(asked.out.read_text())["rows"] if asked.out.exists() else []
    start = time.perf_counter()
    refit = make_refitter(
        bare.model,
        bare.maps,
        bare.splits,
        images=bare.recipe.recalibration_images,
        device=bare.device,
        options=RefitOptions(recalibration=True, precision=bare.recipe.precision),
    )
    seconds = round(time.perf_counter() - start, 1)
    repairs = {"none": None, "refit": refit} | {
        f"refit, ridge {ridge:g}": dataclasses.replace(refit, options=dataclasses.replace(refit.options, ridge=ridge))
        for ridge in RIDGES
    }

    def evaluate_all(cuts: dict[str, Cut], budget: float, methods: list[str], fidelity: str = "recalibrated") -> None:
        for name, cut in cuts.items():
            for method in methods:
                key = {"cut": name, "macs": budget, "repair": method, "fidelity": fidelity}
                if not any(key.items() <= row.items() for row in rows):
                    rows.append(key | evaluate_cut(evaluator, repairs[method], cut, fidelity))
                    print(rows[-1], flush=True)
                    write_rows(asked.out, rows, seconds)

    for budget in BUDGETS:
        evaluate_all(make_named_cuts(set_budget(problem.decoder, budget)), budget, ["none", "refit"])
    evaluate_all(make_named_cuts(problem.decoder), 0.5, ["none", "refit"], "tuned")
    for budget, random in BUDGETS.items():
        evaluate_all(draw_random_cuts(set_budget(problem.decoder, budget), random), budget, ["none", "refit"])
    evaluate_all(make_named_cuts(problem.decoder), 0.5, [name for name in repairs if "ridge" in name])
    write_rows(asked.out, rows, seconds)
    print(json.dumps(summarize(rows), indent=1))


def set_budget(decoder: Decoder, budget: float) -> Decoder:
    return dataclasses.replace(decoder, budget={"macs": (budget, budget)})


def make_named_cuts(decoder: Decoder) -> dict[str, Cut]:
    found = dict(make_baselines(decoder, 1))
    return {name: decoder.decode(found[name]) for name in BASELINES}


def draw_random_cuts(decoder: Decoder, count: int) -> dict[str, Cut]:
    rng = np.random.default_rng(7)
    return {f"random {number}": decoder.decode(decoder.space.sample(rng)) for number in range(count)}


def evaluate_cut(evaluator: Evaluator, repair: Refitter | None, cut: Cut, fidelity: str) -> dict[str, float]:
    outcome = dataclasses.replace(evaluator, refitter=repair).evaluate(make_request(cut, fidelity, 0))
    row = {
        "val_loss": round(outcome.loss, 4),
        "val_accuracy": round(100 - 100 * outcome.error, 2),
        "seconds": round(outcome.seconds, 2),
    }
    if repair is None:
        return row
    module = narrow(evaluator.model, evaluator.maps, cut)
    start = time.perf_counter()
    repair(evaluator.maps, cut, module)
    return row | {"repair_seconds": round(time.perf_counter() - start, 3)}


def write_rows(path: Path, rows: list[dict], seconds: float) -> None:
    facts = {"ridge": RIDGE, "tuning": dataclasses.asdict(TUNING), "preparing_seconds": seconds}
    path.write_text(json.dumps(facts | {"summary": summarize(rows), "rows": rows}, indent=1) + "\n")


def summarize(rows: list[dict]) -> list[dict]:
    """Compute gains, orders and time per budget, fidelity and repair, over the cuts evaluated with and without."""
    found = []
    for budget, fidelity, method in dict.fromkeys((row["macs"], row["fidelity"], row["repair"]) for row in rows):
        of = {
            name: {
                row["cut"]: row
                for row in rows
                if (row["macs"], row["fidelity"], row["repair"]) == (budget, fidelity, name)
            }
            for name in ("none", method)
        }
        both = [cut for cut in of[method] if cut in of["none"]]
        if method == "none" or not both:
            continue
        before, after = ([of[name][cut] for cut in both] for name in ("none", method))
        gains = [b["val_accuracy"] - a["val_accuracy"] for a, b in zip(before, after, strict=True)]
        losses = [[row["val_loss"] for row in some] for some in (before, after)]
        found.append(
            {
                "macs": budget,
                "fidelity": fidelity,
                "repair": method,
                "cuts": len(both),
                "mean_accuracy": [
                    round(float(np.mean([row["val_accuracy"] for row in some])), 2) for some in (before, after)
                ],
                "accuracy_gain": {
                    "least": round(min(gains), 2),
                    "mean": round(float(np.mean(gains)), 2),
                    "most": round(max(gains), 2),
                },
                "mean_loss": [round(float(np.mean(some)), 3) for some in losses],
                "kendall_tau_of_losses": round(float(kendalltau(*losses).statistic), 3) if len(both) > 2 else None,
                "repair_share_of_evaluation": round(
                    float(np.median([row["repair_seconds"] / row["seconds"] for row in after])), 3
                ),
            }
        )
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
