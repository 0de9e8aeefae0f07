"""The built-in example `clutter` after training: the search against known rules, at equal epochs and at equal cost.

    python experiments/after_training/first_example.py --work DIR [--seeds 5]

Every seed trains its own base network, searches once by the example's config, and trains the network of the least loss
by the recipe of the finals (`search`). The other arms are networks of the same search, trained by the same recipe:

- `l1 uniform`, `l1 global`: one criterion, as most users would cut;
- `rule`: the known rule (a criterion, uniform or global) of the least loss;
- `rule, equal cost`: the same network, for as many epochs as all evaluations and the training of the search cost.

Networks are chosen by validation; each is tested once, in its last epoch. `first_example.json` has the arms and the
paired differences in points with their 95 % intervals; it is written after every training, and a run that was stopped
continues.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from compare import Experiment, Table, is_known_rule
from setting import Arguments, run_config

from blendsearch.runs.config.loading import EXAMPLES, load_config
from blendsearch.runs.pareto import select_evaluated
from blendsearch.runs.records import Evaluation
from blendsearch.runs.run import Run, open_run

CONFIG = load_config(EXAMPLES["clutter"])
EPOCHS = CONFIG.finals.tuning.epochs
ALONE = ("l1 uniform", "l1 global")
ARMS = ("search", *ALONE, "rule", "rule, equal cost")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    budget = {name: high for name, (_, high) in CONFIG.budget.get_spans().items()}
    table = Table(asked.out, {"setting": "clutter", "budget": budget, "epochs": EPOCHS})
    arguments = Arguments(
        asked.work, asked.out, "full", asked.seeds, EPOCHS, 0, budget["macs"], "clutter_net", "clutter", "float32"
    )
    for seed in range(asked.seeds):
        experiment = ClutterExperiment(arguments, {"ladder": {"rungs": []}}, table, seed)
        for arm in ARMS:
            if not table.has(arm, seed):
                table.add(arm, **experiment.run(arm))


class ClutterExperiment(Experiment):
    """All arms of one seed on the example."""

    def _run_method(self, method: str, epochs: float) -> Run:
        name = f"{method}-{self.seed}"
        tree: dict[str, Any] = CONFIG.model_dump(mode="json", exclude_defaults=True)
        tree["finals"]["picks"] = 0
        tree |= {"seed": self.seed, "method": method} | self.sections
        return run_config(tree, self.runs, name)

    def run(self, arm: str) -> dict[str, Any]:
        start = time.process_time()
        row = self._train_best() if arm == "search" else self._train_known(arm)
        return {"seed": self.seed, **row, "processor_seconds": round(time.process_time() - start, 1)}

    def _train_known(self, arm: str) -> dict[str, Any]:
        run, row = open_run(self.runs, f"blended-{self.seed}"), self._find_rule(arm)
        epochs = EPOCHS
        if arm.endswith("equal cost"):
            epochs = self.table.get("search", self.seed)["total_macs"] / self._compute_cost(row.macs, 1.0)
        return self._train_row(run, row, round(epochs, 2))

    def _find_rule(self, arm: str) -> Evaluation:
        """Find the network of a rule by its name; otherwise, the rule of the least loss."""
        with open_run(self.runs, f"blended-{self.seed}").open_store(read_only=True) as store:
            rows = select_evaluated(store.read_evaluations())
        if arm in ALONE:
            return next(row for row in rows if arm in row.origin.split(" = "))
        return min((row for row in rows if is_known_rule(row.origin)), key=lambda row: (row.loss, row.id))


if __name__ == "__main__":
    main()
