"""The genomes of the search at equal evaluations: clusters of criteria against one weight per criterion.

    python experiments/after_training/genomes.py SETTING --work DIR [--tier small|full] [--seeds 5] [--evaluations 100]

Every seed searches once with each genome, without a ladder and without finals. The loss is that of refitted networks on
the validation images of the search; `unused` repeats the evaluation of the best network on the other validation images.
`genomes-SETTING.json` has both of every seed, their standard deviation over the seeds, and the paired differences to
the first genome; it is written after every search.
"""

import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from compare import POOL, make_arguments, make_parser

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from setting import Arguments, compare_paired, get_weights_path, load_problem, make_config, measure_loss, run_config

from blendsearch.pipeline.problem.persistence import restore
from blendsearch.runs.pareto import select_evaluated
from blendsearch.runs.run import Run
from blendsearch.structure.groups import unpack_cut

GENOMES: dict[str, dict[str, Any]] = {
    "clusters, weights inside": {"blend": "clusters", "members": "weights"},
    "a weight per criterion": {"blend": "network"},
    "clusters, choice inside": {"blend": "clusters", "members": "choice"},
    "clusters, mean inside": {"blend": "clusters", "members": "mean"},
}


def main() -> None:
    asked = make_parser(__doc__.splitlines()[0], seeds=5, evaluations=100).parse_args()
    asked.out = asked.out or Path(__file__).with_name(f"genomes-{asked.setting}.json")
    arguments = make_arguments(asked)
    torch.set_num_threads(1)
    load_problem(arguments)  # trains the base network once
    facts = {"setting": asked.setting, "tier": asked.tier, "evaluations": asked.evaluations}
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in GENOMES}
    if asked.out.exists():
        rows |= {entry["name"]: entry["seeds"] for entry in json.loads(asked.out.read_text())["genomes"]}
    for name in GENOMES:
        for seed in range(asked.seeds):
            if all(row["seed"] != seed for row in rows[name]):
                rows[name].append(run_genome(arguments, name, seed, asked.evaluations))
                print(name, rows[name][-1], flush=True)
                asked.out.write_text(json.dumps(facts | summarize(rows), indent=1) + "\n")


def run_genome(arguments: Arguments, name: str, seed: int, evaluations: int) -> dict[str, Any]:
    """Search with a genome; return the least loss, and the loss of that network on unused validation images."""
    search = GENOMES[name] | {"evaluations": evaluations}
    run = run_search(arguments, "-".join(GENOMES[name].values()), search, seed)
    with run.open_store(read_only=True) as store:
        found = select_evaluated(store.read_evaluations())
    best = min((row for row in found if row.id), key=lambda row: (row.loss, row.id))
    problem = restore(run)
    cut = unpack_cut(best.cut, problem.structure.maps.channels)
    unused = measure_loss(problem.evaluator, cut, seed, "unused")
    return {"seed": seed, "origin": best.origin, "loss": round(best.loss, 4), "unused": round(unused, 4)}


def run_search(
    arguments: Arguments,
    label: str,
    search: Mapping[str, Any],
    seed: int,
    val_limit: int = 2000,
    against: str = "labels",
) -> Run:
    """Search without a ladder and without finals; a run that is there already is returned or resumed."""
    name = f"{label}-{seed}"
    runs = arguments.work / f"runs-{arguments.out.stem}-{arguments.tier}-{search['evaluations']}"
    tree = make_config(arguments).model_dump(mode="json", exclude_defaults=True)
    tree["model"] = tree["model"] | {"weights": str(get_weights_path(arguments)), "train": None}
    tree["data"] |= {"val_limit": val_limit}
    tree |= {
        "criteria": {"pool": list(POOL)},
        "fitness": tree["fitness"] | {"against": against},
        "search": dict(search),
        "finals": {"picks": 0},
        "ladder": {"rungs": []},
        "seed": seed,
    }
    return run_config(tree, runs, name)


def summarize(rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return every genome's seeds, their spread, and the paired differences of its losses to the first genome."""
    genomes = []
    reference = {row["seed"]: row for row in next(iter(rows.values()))}
    for name, found in rows.items():
        entry: dict[str, Any] = {"name": name, "seeds": found}
        for key in ("loss", "unused"):
            values = [row[key] for row in found]
            pairs = [(row[key], reference[row["seed"]][key]) for row in found if row["seed"] in reference]
            if len(values) > 1 and len(pairs) > 1:
                entry |= {f"{key}_mean": statistics.mean(values), f"{key}_deviation": statistics.stdev(values)}
                entry[f"{key}_difference"] = compare_paired(*map(list, zip(*pairs, strict=True)))
        genomes.append(entry)
    return {"genomes": genomes}


if __name__ == "__main__":
    main()
