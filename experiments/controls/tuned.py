"""Fine-tune and test the network of every method and seed of a comparison.

    python experiments/controls/tuned.py RUN --runs DIR [--images 50000] [--rate 0.01] [--methods A,B] [--out FILE]

RUN is a compared run (experiments/controls/run.py). Its methods' networks, chosen by validation before, are fine-tuned
for one pass over the given number of training images. The table holds their test accuracy, with the difference paired
by seed. Nothing is chosen here. Writes the table after every network, and resumes after a stop.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from blendsearch.fitness.evaluator import make_request
from blendsearch.pipeline.problem.persistence import restore
from blendsearch.results.comparison import compute_paired_difference, summarize_comparison
from blendsearch.runs.config.schema import ScheduleConfig
from blendsearch.runs.run import Run, list_runs, open_run
from blendsearch.structure.groups import unpack_cut


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--methods", help="only these, by the names they have in the comparison (default: all)")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    run = open_run(arguments.runs, arguments.run)
    out = arguments.out or Path(__file__).with_name(f"{run.name}-tuned.json")
    schedule = ScheduleConfig(epochs=1, rate=arguments.rate, images=arguments.images)
    kept = {"run": run.name, "tuning": schedule.model_dump(), "methods": {}}
    if out.exists():
        kept = json.loads(out.read_text())
    config = run.config.model_copy(update={"finals": run.config.finals.model_copy(update={"tuning": schedule})})
    problem = restore(run, fork=config)
    cuts = collect_cuts(run)
    asked = arguments.methods.split(",") if arguments.methods else None
    for row in summarize_comparison(run)["methods"]:
        if asked is not None and row["name"] not in asked:
            continue
        done = kept["methods"].setdefault(row["name"], {})
        for item in row["found"]:
            if str(item["seed"]) in done:
                continue
            cut = unpack_cut(cuts[item["cut"]], problem.structure.maps.channels)
            start = time.perf_counter()
            outcome = problem.evaluator.evaluate(make_request(cut, "final", item["seed"], "both"))
            if outcome.failure or outcome.test is None:
                raise SystemExit(f"{row['name']}, seed {item['seed']}: {outcome.failure}")
            done[str(item["seed"])] = {
                "cut": item["cut"],
                "before": item["test_accuracy"],
                "val_accuracy": 1 - outcome.error,
                "test_accuracy": 1 - outcome.test[1],
                "seconds": time.perf_counter() - start,
            }
            kept["table"] = make_table(kept["methods"], run.config.method)
            out.write_text(json.dumps(kept, indent=1) + "\n")
            print(row["name"], item["seed"], f"{1 - outcome.test[1]:.2%}", flush=True)


def collect_cuts(run: Run) -> dict[str, bytes]:
    """Collect the packed cut of every network that the run or one of its controls evaluated, by digest."""
    folder = run.path / "controls"
    found = {}
    for held in [run, *(open_run(folder, name) for name in list_runs(folder))]:
        with held.open_store(read_only=True) as store:
            found |= {row.digest: row.cut for row in store.read_evaluations()}
    return found


def make_table(methods: dict[str, Any], own: str) -> list[dict[str, Any]]:
    """Compute per method the mean and standard deviation over seeds, and the lead of the run's method."""
    rows = []
    for name, done in methods.items():
        values = [item["test_accuracy"] for item in done.values()]
        both = sorted(methods.get(own, {}).keys() & done.keys())
        pairs = [(methods[own][seed]["test_accuracy"], done[seed]["test_accuracy"]) for seed in both]
        if values:
            spread = stdev(values) if len(values) > 1 else None
            rows.append({"name": name, "seeds": len(values), "mean": fmean(values), "deviation": spread})
            rows[-1]["difference"] = None if name == own else compute_paired_difference(pairs)
    return rows


if __name__ == "__main__":
    main()
