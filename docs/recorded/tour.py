"""Make the outputs and pictures of docs/tour.md again from the current code: ``python docs/recorded/tour.py``.

Runs the built-in example in an empty folder, writes what its commands print to ``tour-*.txt`` beside this file, draws
`docs/pictures/`, and writes to ``tour.json`` the digest of the code that these show. A test compares that digest.
Takes about four minutes, and needs chromium.
"""

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
STAMP = HERE / "tour.json"
RUN = "digits-net-1"
COMMANDS = {
    "search": ["search"],
    "front": ["front", RUN],
    "show": ["show", RUN, "best"],
    "export": ["export", RUN, "best", "--out", "small"],
}
SHOWN = (
    "blendsearch/cli/answer_text.py",
    "blendsearch/cli/show.py",
    "blendsearch/results/answer.py",
    "blendsearch/results/report",
    "blendsearch/runs/config/digits.yaml",
    "blendsearch/service/pages",
)
"""The code that makes what readers see: files, and folders with all that they hold."""

FIDELITIES = ("raw", "recalibrated", "tuned")
RULES = ("taylor_gate uniform at 50% macs", "l1 uniform at 10% macs")

LAYERS = """\
import blendsearch

module = blendsearch.load("small")
print(module.stem[0], module.inner[0], module.down[0], module.top[0], module.classifier, sep="\\n")
"""


def compute_digest() -> str:
    """Compute the SHA-256 of the names and contents of all files of `SHOWN`."""
    digest = hashlib.sha256()
    for place in SHOWN:
        path = ROOT / place
        files = [path] if path.is_file() else sorted(path.rglob("*"))
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def format_fidelities(run: Any) -> str:
    """Evaluate three networks of the run at each fidelity; format their validation accuracies as a Markdown table."""
    from blendsearch.fitness.evaluator import make_request
    from blendsearch.pipeline.problem.persistence import restore
    from blendsearch.runs.pareto import select_evaluated
    from blendsearch.structure.groups import unpack_cut

    problem = restore(run)
    with run.open_store(read_only=True) as store:
        rows = select_evaluated(store.read_evaluations())
    chosen = [min((row for row in rows if row.origin == "evolved"), key=lambda row: row.loss)]
    chosen += [next(row for row in rows if rule in row.origin.split(" = ")) for rule in RULES]
    lines = [f"| cut | MACs | {' | '.join(f'`{name}`' for name in FIDELITIES)} |", "| --- | --- | --- | --- | --- |"]
    for row in chosen:
        cut = unpack_cut(row.cut, problem.structure.maps.channels)
        outcomes = [problem.evaluator.evaluate(make_request(cut, name, 0)) for name in FIDELITIES]
        accuracies = " | ".join(f"{100 - 100 * outcome.error:.1f} %" for outcome in outcomes)
        lines.append(f"| {row.origin} | {row.macs / run.structure['dense']['macs']:.1%} | {accuracies} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    sys.path[:0] = [str(HERE), str(ROOT / "docs" / "pictures")]
    from draw import draw
    from record import run_command, run_python
    from screenshots import main as take_screenshots

    from blendsearch.runs.run import open_run

    digest = compute_digest()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for title, words in COMMANDS.items():
            lines, _ = run_command(words, folder, ROOT)
            text = "".join(f"{line.text}\n" for line in lines)
            print(f"$ blendsearch {' '.join(words)}\n{text}")
            (HERE / f"tour-{title}.txt").write_text(text, encoding="utf-8")
        lines, _ = run_python(["-c", LAYERS], folder, ROOT)
        (HERE / "tour-layers.txt").write_text("".join(f"{line.text}\n" for line in lines), encoding="utf-8")
        os.chdir(folder)  # commands in the pictures then name no folder of runs
        run = open_run(Path("runs"), RUN)
        (HERE / "tour-fidelities.md").write_text(format_fidelities(run), encoding="utf-8")
        draw(run, None)
        take_screenshots(Path("runs", RUN))
    STAMP.write_text(json.dumps({"shown": digest}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
