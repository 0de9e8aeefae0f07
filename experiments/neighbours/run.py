"""Run the methods of neighbouring papers on one config, and write a table of their networks as JSON.

    python experiments/neighbours/run.py CONFIG --work DIR [--methods sensitivity,derived,tailored] [--seeds 1]

DIR holds the runs, and the decoded data where the config needs any. Finished runs are not repeated, and stopped ones
are resumed. Writes a file with the config's name and .json beside it.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="where runs go, and decoded data are")
    parser.add_argument("--shared", type=Path, default=HERE.parents[2] / "shared" / "data")
    parser.add_argument("--methods", default="sensitivity,derived,tailored")
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    os.environ |= {"SHARED": str(arguments.shared.resolve()), "DATA": os.environ.get("DATA", str(work))}
    found: list[dict[str, Any]] = []
    for method in arguments.methods.split(","):
        for seed in range(arguments.seeds):
            name = f"{arguments.config.stem}-{method}-{seed}"
            changes = ("--set", f"method={method}", "--set", f"seed={seed}")
            words = ("--runs", work / "runs", "--name", name, "--or-resume")
            run_verb("search", arguments.config, *changes, *words)
            found.append({"method": method, "seed": seed, **describe_result(name, work / "runs")})
            path = arguments.config.with_suffix(".json")
            path.write_text(json.dumps({"config": arguments.config.name, "networks": found}, indent=1) + "\n")


def describe_result(name: str, runs: Path) -> dict[str, Any]:
    """Describe the result of a run: its cut recovered as in a search, and the network that it trained, if any."""
    facts = json.loads(run_verb("front", name, "--runs", runs, "--json", capture=True))
    keys = ("macs_ratio", "params_ratio", "val_loss", "val_accuracy", "test_accuracy")

    def row(network: dict[str, Any]) -> dict[str, Any]:
        return {key: network[key] for key in keys}

    return {
        "dense": row(facts["dense"][0]),
        "recovered": row(facts["front"][0]),
        "trained": row(facts["finals"][0]) if facts["finals"] else None,
    }


def run_verb(*words: object, capture: bool = False) -> str:
    """Run one verb of the command line, and return its output if captured."""
    command = [sys.executable, "-m", "blendsearch", *map(str, words)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE if capture else None, text=True)
    return done.stdout or ""


if __name__ == "__main__":
    main()
