"""Run all checks and measurements of this folder, each within its share of the time, and print one table of the goals.

    experiments/gpu/all.sh [--device cuda] [--minutes 13] [--out DIR] [--work DIR] [--again] [--toy]

The parts come in order of their value. Each runs in its own process, so that an error of the card ends that part alone;
with `--toy`, all run in this one. All end within `--minutes`, plus some seconds. Every step is stored beside this file
at once, and a second call continues with the steps that are missing. Exit code 0 unless a step has an error other than
a lack of time or of Ray.
"""

import argparse
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from harness import HERE, NO_RAY, OVER_TIME, Part, describe_device, make_arguments, parse_arguments

from blendsearch.errors import BlendsearchError
from blendsearch.training.device import resolve_device

SHARES = {
    "correctness": 2.5,
    "throughput": 3.0,
    "training_speed": 1.5,
    "recorded_steps": 1.0,
    "several_candidates": 1.5,
    "out_of_memory": 1.0,
    "fractional_workers": 1.5,
    "data_loading": 1.0,
}
"""Minutes of each part, out of 13. What a part leaves is shared by the following ones."""

GRACE = 30.0
"""Seconds beyond its time after which the process of a part is stopped: a step that has begun may end."""

LEAST = 5.0
"""Seconds that a part has at least before its process is stopped, also when no time is left."""


def main() -> None:
    parsed = parse_arguments(__doc__, add_options)
    try:
        device = resolve_device(parsed.device)
    except BlendsearchError as error:
        sys.exit(f"{error}; a dry run: --device cpu --toy")
    names = [name for name in SHARES if not parsed.only or name in parsed.only]
    ends_at, states = time.monotonic() + 60 * parsed.minutes, {}
    for number, name in enumerate(names):
        left = (ends_at - time.monotonic()) / 60
        minutes = max(0.0, left * SHARES[name] / sum(SHARES[later] for later in names[number:]))
        states[name] = run_part(parsed, name, minutes, max(LEAST, ends_at - time.monotonic()))
    print(f"\n{describe_device(device)}{', toy sizes' if parsed.toy else ''}")
    print(make_table(states))
    every = [text for state in states.values() for text in list_errors(state)]
    errors = [text for text in every if OVER_TIME not in text and NO_RAY not in text]
    sys.exit(1 if errors else 0)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", choices=SHARES, help="parts to run; all by default")


def run_part(parsed: argparse.Namespace, name: str, minutes: float, left: float = float("inf")) -> dict[str, Any]:
    """Run one part and return its state; a part that ends without one has a state with an error.

    `left`: the seconds until the end of the whole run.
    """
    part = None
    try:
        if parsed.toy:
            part = Part(name, make_arguments(parsed, minutes))
            part.run(importlib.import_module(name).measure)
            return part.state
        return run_process(parsed, name, minutes, min(60 * minutes + GRACE, left))
    except Exception as error:
        return {"steps": {"part": {"error": f"{type(error).__name__}: {error}"}}, "goals": []}


def run_process(parsed: argparse.Namespace, name: str, minutes: float, limit: float) -> dict[str, Any]:
    """Run one part in a process of its own, stop it after `limit` seconds, and read what it has stored."""
    words = ["--device", parsed.device, "--out", parsed.out, "--work", parsed.work, "--minutes", minutes]
    command = [sys.executable, str(HERE / f"{name}.py"), *map(str, words), *["--again"] * parsed.again]
    path, began, failure = Path(parsed.out) / f"{name}.json", time.time(), ""
    try:
        done = subprocess.run(command, stdout=subprocess.DEVNULL, timeout=limit)
        if done.returncode not in (0, 1):
            failure = f"the process ended with code {done.returncode}"
    except subprocess.TimeoutExpired:
        failure = f"stopped after {limit:.0f} seconds"
    fresh = path.exists() and path.stat().st_mtime >= began - 1
    state: dict[str, Any] = json.loads(path.read_text("utf-8")) if fresh else {"steps": {}, "goals": []}
    if failure or not fresh:
        state["steps"]["part"] = {"error": failure or "nothing was stored"}
    return state


def list_errors(state: dict[str, Any]) -> list[str]:
    return [f"{name}: {row['error']}" for name, row in state["steps"].items() if "error" in row]


def make_table(states: dict[str, dict[str, Any]]) -> str:
    """Make the table of goals, and below it the steps without a result."""
    lines = [f"{'part':<20}{'what':<58}{'value':>9}{'goal':>8}  reached"]
    for name, state in states.items():
        done = sum("result" in row for row in state["steps"].values())
        lines.append(f"{name:<20}{done} of {len(state['steps'])} steps")
        for goal in state["goals"]:
            value = "-" if goal["value"] is None else f"{goal['value']:.4g}"
            reached = {None: "not measured", True: "yes", False: "no"}[goal["reached"]]
            lines.append(f"{'':<20}{goal['what'][:57]:<58}{value:>9}{goal['goal']:>8g}  {reached}")
    failed = [f"{name}: {text}" for name, state in states.items() for text in list_errors(state)]
    return "\n".join([*lines, *(["", "without a result:"] if failed else []), *failed])


if __name__ == "__main__":
    main()
