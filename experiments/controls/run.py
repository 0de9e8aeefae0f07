"""A blended search beside its controls at equal evaluations, on several seeds: the table and a picture.

    python experiments/controls/run.py CONFIG --work DIR [--seeds 3] [--name ID] [--set FIELD=VALUE ...]

DIR holds the decoded data and the runs; whatever was searched there already is not searched again, so that a stopped
comparison goes on. Writes ID.json and ID.png beside the config, as far as the seeds have come.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

HERE = Path(__file__).parent
NAMES = {"blended": "blended search", "random": "random search", "legr": "LeGR"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="where decoded data and runs go")
    parser.add_argument("--shared", type=Path, default=HERE.parents[2] / "shared" / "data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--name", help="of the run and of the files written (default: the config's)")
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    work, name = arguments.work.resolve(), arguments.name or arguments.config.stem
    os.environ |= {"SHARED": str(arguments.shared.resolve()), "DATA": str(work), "BASES": str(work)}
    for data in ("cifar10", "cifar100"):
        if not (work / f"{data}-test.npz").exists():
            subprocess.run([sys.executable, arguments.shared / "unpack.py", data, work], check=True)
    runs = work / "runs"
    if (runs / name).exists():
        blendsearch("resume", name, "--runs", runs)
    else:
        changes = [f"--set={change}" for change in arguments.set]
        blendsearch("search", arguments.config, *changes, "--runs", runs, "--name", name)
    for seeds in range(1, arguments.seeds + 1):
        blendsearch("compare", name, "--runs", runs, "--seeds", seeds)
        written(name, runs, arguments.config.parent)


def written(name: str, runs: Path, folder: Path) -> None:
    """The comparison as far as it has come, as JSON and as a picture."""
    shown = blendsearch("compare", name, "--runs", runs, "--controls", "none", "--json", capture=True)
    found = json.loads(shown)
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    rows = sorted(found["methods"], key=lambda row: row["test_accuracy"]["mean"])
    figure = Figure(figsize=(8, 0.5 * len(rows) + 1.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        points = [100 * item["test_accuracy"] for item in row["found"]]
        axes.plot(points, [place] * len(points), "o", color="tab:blue" if row["name"] == "blended" else "tab:gray")
        axes.plot(100 * row["test_accuracy"]["mean"], place, "|", markersize=18, color="black")
    axes.set_yticks(range(len(rows)), [NAMES.get(row["name"], row["name"]) for row in rows])
    axes.set_xlabel("accuracy on unseen test images, % (a dot is one seed, a bar their mean)")
    axes.set_title(f"{name}: {found['budget']}, equal evaluations")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(folder / f"{name}.png", dpi=110)


def blendsearch(*words: object, capture: bool = False) -> str:
    """Run one verb of the command line; its output when captured."""
    command = [sys.executable, "-m", "blendsearch", *map(str, words)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE if capture else None, text=True)
    return done.stdout or ""


if __name__ == "__main__":
    main()
