"""Compare a blended search with its controls at equal evaluations, on several seeds: a table and a picture.

    python experiments/controls/run.py CONFIG --work DIR [--seeds 3] [--lanes 1] [--name ID] [--set FIELD=VALUE ...]

DIR holds the decoded data and the runs. Finished searches are not repeated, so a stopped comparison resumes. `--lanes`
searches run in parallel. Writes ID.json and ID.png beside the config when all are finished; with `--seeds 0`, of the
runs so far.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from blendsearch.errors import RunError
from blendsearch.events import ignore_event
from blendsearch.pipeline.control_runs import plan_comparison, run_control
from blendsearch.runs.config.method_registry import list_control_names
from blendsearch.runs.run import open_run

HERE = Path(__file__).parent
NAMES = {"blended": "blended search", "random": "random search", "legr": "LeGR"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="where decoded data and runs go")
    parser.add_argument("--shared", type=Path, default=HERE.parents[2] / "shared" / "data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--controls", default=",".join(list_control_names(optional=False)))
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--lane", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--name", help="of the run and of the files written (default: the config's)")
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    work, name = arguments.work.resolve(), arguments.name or arguments.config.stem
    os.environ |= {"SHARED": str(arguments.shared.resolve()), "DATA": str(work), "BASES": str(work)}
    for data in ("cifar10", "cifar100"):
        if not (work / f"{data}-test.npz").exists():
            subprocess.run([sys.executable, arguments.shared / "unpack.py", data, work], check=True)
    runs = work / "runs"
    if arguments.lane == 0 and arguments.seeds:
        again = [sys.executable, __file__, *sys.argv[1:], "--lane"]
        others = [subprocess.Popen([*again, str(lane)]) for lane in range(1, arguments.lanes)]
        if (runs / name).exists():
            run_verb("resume", name, "--runs", runs)
        else:
            changes = [f"--set={change}" for change in arguments.set]
            run_verb("search", arguments.config, *changes, "--runs", runs, "--name", name)
        run_lane(runs, name, arguments)
        if max((other.wait() for other in others), default=0):
            raise SystemExit("a lane failed")
    elif arguments.lane:
        while not (runs / name / "run.sqlite").exists():  # its network is every control's
            time.sleep(5)
        run_lane(runs, name, arguments)
    if arguments.lane == 0:
        write_comparison(name, runs, arguments.config.parent)


def run_lane(runs: Path, name: str, arguments: argparse.Namespace) -> None:
    """Run the searches of the plan, in order, that no other lane runs."""
    run = open_run(runs, name)
    for control_name, config in plan_comparison(run, arguments.controls.split(","), arguments.seeds):
        try:
            run_control(run, control_name, config, config.engine, ignore_event)
        except RunError as error:
            print(f"lane {arguments.lane} leaves {control_name} to another: {error}", flush=True)
            continue
        print(f"lane {arguments.lane} has done {control_name}", flush=True)


def write_comparison(name: str, runs: Path, folder: Path) -> None:
    """Write the comparison so far, as JSON and as a picture."""
    shown = run_verb("compare", name, "--runs", runs, "--controls", "none", "--json", capture=True)
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


def run_verb(*words: object, capture: bool = False) -> str:
    """Run one verb of the command line, and return its output if captured."""
    command = [sys.executable, "-m", "blendsearch", *map(str, words)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE if capture else None, text=True)
    return done.stdout or ""


if __name__ == "__main__":
    main()
