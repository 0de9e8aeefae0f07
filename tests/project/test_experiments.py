"""Experiments call the package with the arguments that it has."""

import os
import re
import subprocess
import sys
from pathlib import Path

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SHARED = ("training", "after_training", "performance")
"""Folders whose modules other experiments import."""

WRONG = re.compile(r"\[(call-arg|call-overload|name-defined|import-not-found|has-type|syntax)\]$")


def test_experiments_call_what_exists() -> None:
    left, lines = sorted(EXPERIMENTS.rglob("*.py")), []
    while left:
        batch = {path.stem: path for path in left}.values()  # a module's name may occur once in a check
        lines += check_types(batch)
        left = [path for path in left if path not in batch]
    assert [line for line in lines if WRONG.search(line)] == []


def test_a_wrong_call_is_found(tmp_path: Path) -> None:
    script = tmp_path / "wrong_call.py"
    script.write_text("from blendsearch.training.schedule import Schedule\n\nSchedule(epochs=1)\nSchedule()\n")
    assert [line.partition(":")[2][:1] for line in check_types([script]) if WRONG.search(line)] == ["3", "4"]


def check_types(files):
    flags = ["--follow-imports=silent", "--no-strict-optional", "--allow-untyped-defs", "--scripts-are-modules"]
    environment = os.environ | {"MYPYPATH": os.pathsep.join(str(EXPERIMENTS / name) for name in SHARED)}
    command = [sys.executable, "-m", "mypy", *flags, *map(str, files)]
    done = subprocess.run(command, cwd=EXPERIMENTS.parent, env=environment, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr + done.stdout
    return done.stdout.splitlines()
