"""How well losses on few images order networks: by the labels, and by the dense network's outputs.

    python experiments/after_training/evaluation_noise.py RUNS RUN... [--best 120] [--networks 36] [--seed 0]

Each RUN, in the folder RUNS, is a finished search with `data.val_limit`. Draws networks among its best, and evaluates
them on the images of the search and on the other validation images, by both losses (`fitness.against`). The JSON has
Spearman's rank correlation of each loss on the search's images with the loss of the labels on the other images. A run
that searched by one of the losses favours the other here: its best networks suit its own images by chance.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from setting import measure_loss

from blendsearch.pipeline.problem.persistence import restore
from blendsearch.runs.pareto import select_evaluated
from blendsearch.runs.run import open_run
from blendsearch.structure.groups import unpack_cut


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="RUNS", help="folder of the runs")
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--best", type=int, default=120, help="networks of least loss that are drawn from")
    parser.add_argument("--networks", type=int, default=36)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = json.loads(asked.out.read_text()) if asked.out.exists() else []
    for name in asked.runs:
        rows.append(correlate(asked.folder, name, asked))
        print(rows[-1], flush=True)
        asked.out.write_text(json.dumps(rows, indent=1) + "\n")


def correlate(folder: Path, name: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Correlate the losses of a run's networks on few images with those on the others."""
    run = open_run(folder, name)
    with run.open_store(read_only=True) as store:
        best = sorted(select_evaluated(store.read_evaluations()), key=lambda row: (row.loss, row.id))[: asked.best]
    places = np.random.default_rng(asked.seed).choice(len(best), min(asked.networks, len(best)), replace=False)
    problem = restore(run)
    by_labels = dataclasses.replace(problem.evaluator, loss_target="labels")
    by_dense = dataclasses.replace(problem.evaluator, loss_target="dense")
    cuts = [unpack_cut(best[place].cut, problem.structure.maps.channels) for place in sorted(places)]
    truth = [measure_loss(by_labels, cut, 0, "unused") for cut in cuts]
    found: dict[str, Any] = {"searched_by": run.config.fitness.against, "images": len(problem.splits.val)}
    found |= {"other_images": len(problem.splits.unused or ()), "networks": len(cuts)}
    for key, evaluator in (("labels", by_labels), ("dense", by_dense)):
        losses = [measure_loss(evaluator, cut, 0, "val") for cut in cuts]
        found[key] = round(float(stats.spearmanr(losses, truth)[0]), 3)
    return found


if __name__ == "__main__":
    main()
