"""Measure the accuracy lost by decomposing layers, and the part that the fit recovers.

    python experiments/neighbours/depthwise.py --work DIR [--shared ../shared/data]

ResNet-56 on CIFAR-10, settings of `depthwise-resnet56.yaml`: the equal blend's networks at three budgets, with no layer
decomposed (uniform and global allocation), with all, and with as few as meet the budget without a cut. Each is
evaluated on the same 2,000 validation images after recalibration, as cut and decomposed, with all layers fitted but
only the pointwise halves of decomposed ones, and with pairs fitted in 2 and 8 sweeps; a few also after a fine-tune on
5,000 training images. The test half is not used. `DIR` holds or receives cifar10-train.npz and cifar10-test.npz. Rows
are written to a JSON file beside this script as they are measured, and stored rows are not measured again.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from blendsearch.events import ignore_event
from blendsearch.fitness.evaluator import Evaluator, make_request
from blendsearch.pipeline.optimizers.baselines import make_baselines
from blendsearch.pipeline.problem.builder import build_problem
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.runs.config.loading import load_config
from blendsearch.training.schedule import Schedule

HERE = Path(__file__).parent
BUDGETS = (0.5, 0.3, 0.12)
SWEEPS = (0, 2, 8)
TUNING = Schedule(epochs=1, rate=0.01, images=5000)
TUNED = {(0.3, "equal blend uniform"), (0.3, "equal blend uniform, enough depthwise")}
SETTINGS = ["fitness.device=cpu", "engine.threads=1", "criteria.pool=[l1,fpgm,bn_gamma,taylor_gate,fisher]"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="where the decoded data are")
    parser.add_argument("--shared", type=Path, default=HERE.parents[2] / "shared" / "data")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    asked = parser.parse_args()
    if not asked.shared.is_dir():
        sys.exit(f"{asked.shared} is not there: the experiment needs CIFAR-10 and the weights kept in it")
    if not (asked.work / "cifar10-test.npz").exists():
        subprocess.run([sys.executable, asked.shared / "unpack.py", "cifar10", asked.work], check=True)
    os.environ |= {"SHARED": str(asked.shared.resolve()), "DATA": str(asked.work.resolve())}
    problem = build_problem(load_config(HERE / "depthwise-resnet56.yaml", SETTINGS), ignore_event)
    rows: list[dict] = json.loads(asked.out.read_text())["rows"] if asked.out.exists() else []

    def evaluate(budget: float, name: str, genome: object, fit: str, evaluator: Evaluator, fidelity: str) -> None:
        key = {"macs": budget, "network": name, "fit": fit, "fidelity": fidelity}
        if any(key.items() <= row.items() for row in rows):
            return
        held = dataclasses.replace(problem.decoder, budget={"macs": (budget, budget)})
        cut = held.decode(genome)
        counts, oracle = problem.structure.maps.count_kept(cut), problem.structure.oracle
        outcome = evaluator.evaluate(make_request(cut, fidelity, 0))
        rows.append(
            key
            | {
                "decomposed": len(problem.structure.maps.find_decomposed_layers(cut)),
                "of_macs": round(float(oracle.compute_ratio("macs", counts)), 4),
                "of_params": round(float(oracle.compute_ratio("params", counts)), 4),
                "val_loss": round(outcome.loss, 4),
                "val_accuracy": round(100 - 100 * outcome.error, 2),
                "seconds": round(outcome.seconds, 2),
            }
        )
        print(rows[-1], flush=True)
        asked.out.write_text(json.dumps({"misfit": compute_misfits(problem), "rows": rows}, indent=1) + "\n")

    bare = problem.evaluator
    options = bare.refitter.options
    fits = {
        f"{sweeps} sweeps": dataclasses.replace(bare.refitter, options=dataclasses.replace(options, sweeps=sweeps))
        for sweeps in SWEEPS
    }
    tuned = dataclasses.replace(bare, recipe=dataclasses.replace(bare.recipe, tuning=TUNING))
    for budget in BUDGETS:
        held = dataclasses.replace(problem.decoder, budget={"macs": (budget, budget)})
        for name, genome in make_baselines(held, 1):
            if not name.startswith("equal blend"):
                continue
            usual = dataclasses.replace(bare, refitter=fits["2 sweeps"])
            evaluate(budget, name, genome, "none", dataclasses.replace(bare, refitter=None), "recalibrated")
            evaluate(budget, name, genome, "2 sweeps", usual, "recalibrated")
            for fit in ("0 sweeps", "8 sweeps") if "depthwise" in name else ():
                evaluate(budget, name, genome, fit, dataclasses.replace(bare, refitter=fits[fit]), "recalibrated")
    for budget, name in sorted(TUNED):
        held = dataclasses.replace(problem.decoder, budget={"macs": (budget, budget)})
        genome = dict(make_baselines(held, 1))[name]
        for fit in ("none", "2 sweeps"):
            evaluate(budget, name, genome, fit, dataclasses.replace(tuned, refitter=fits.get(fit)), "tuned")


def compute_misfits(problem: Problem) -> dict[str, float]:
    """Compute the share of its kernels that each layer loses, by name."""
    return {
        name: round(float(value), 4)
        for name, value in zip(problem.structure.maps.layers, problem.decoder.misfit, strict=True)
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
