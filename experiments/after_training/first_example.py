"""The built-in digits example after training, at several budgets: the search against the best known rule.

    python experiments/after_training/first_example.py --work DIR [--seeds 5] [--budgets 0.1 0.05]

Every seed trains its own base network, searches once by the example's config at one budget, and trains the best known
rule again: for the epochs of the finals (`rule`), and for as many as the whole search cost (`rule, equal cost`).
Networks are chosen by validation; each is tested once, in its last epoch. `first_example.json` has the arms of every
budget and the paired differences in points with their 95 % intervals; it is written after every training, and a run
that was stopped continues.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from compare import Experiment, Table
from setting import Arguments

from blendsearch.cli.main import main as run_blendsearch
from blendsearch.runs.config.loading import load_config
from blendsearch.runs.run import Run, open_run

RATE, EPOCHS = 0.05, 15.0
ARMS = ("search", "rule", "rule, equal cost")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.1, 0.05])
    parser.add_argument("--evaluations", type=int, default=100)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    parts = []
    for budget in asked.budgets:
        part = asked.work / f"first-{budget:g}.json"
        table = Table(part, {"setting": "digits", "macs": budget, "epochs": EPOCHS})
        arguments = Arguments(
            asked.work, part, "full", asked.seeds, EPOCHS, 20, budget, "digits_net", "digits", "float32"
        )
        for seed in range(asked.seeds):
            experiment = DigitsExperiment(arguments, {"search": {"evaluations": asked.evaluations}}, table, seed)
            for arm in ARMS:
                if not table.has(arm, seed):
                    table.add(arm, **experiment.run(arm))
        parts.append(json.loads(part.read_text()))
        asked.out.write_text(json.dumps(parts, indent=1) + "\n")


class DigitsExperiment(Experiment):
    """All arms of one seed on the digits example."""

    def _run_method(self, method: str, epochs: float) -> Run:
        name = f"{method}-{self.seed}"
        tree: dict[str, Any] = load_config(None, []).model_dump(mode="json", exclude_defaults=True)
        tree |= {"budget": {"macs": self.arguments.macs}, "seed": self.seed, "method": method}
        tree["finals"] = {"picks": 1, "tuning": {"epochs": epochs, "rate": RATE, "batch_size": 64}}
        tree |= self.sections
        self.runs.mkdir(parents=True, exist_ok=True)
        config = self.runs / f"{name}.yaml"
        config.write_text(yaml.safe_dump(tree))
        code = run_blendsearch(["search", str(config), "--runs", str(self.runs), "--name", name, "--or-resume"])
        if code:
            raise SystemExit(f"the search {name} ended with exit code {code}")
        return open_run(self.runs, name)


if __name__ == "__main__":
    main()
