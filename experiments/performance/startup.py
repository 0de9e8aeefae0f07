"""Start-up of the command line: seconds until a verb has ended, or until a search prints its first line.

    python experiments/performance/startup.py [--repeats 5] [--out startup.json]

Each figure is the least of several runs after one that warms the caches: wall time, and processor time, which other
load of the machine does not change as much. The runs that are read are the golden ones of the tests.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "tests" / "golden" / "runs"

COMMANDS = {
    "help": ["--help"],
    "runs": ["runs", "--runs", str(RUNS)],
    "front": ["front", "digits", "--runs", str(RUNS)],
    "show": ["show", "digits", "best", "--runs", str(RUNS)],
    "unknown criterion": ["search", "--set", "criteria.pool=[l1, tailor_gate]"],
    "unknown model": ["search", "--set", "model.factory=digit_net"],
}
LIMITS = {"help": 0.3, "runs": 0.5, "front": 0.5, "show": 0.5, "unknown criterion": 1.0, "first line of a search": 1.0}
"""Seconds that were asked for."""


def time_command(words: list[str], folder: str) -> tuple[float, float]:
    """Return the wall and the processor seconds of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "blendsearch", *words], cwd=folder, capture_output=True, check=False)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def time_first_line(folder: str) -> tuple[float, float]:
    """Return the wall seconds until a search prints its first line, twice: the process is ended then."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "blendsearch", "search"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None and process.stdout.readline()
        wall = time.perf_counter() - start
        process.kill()
    return wall, wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        timers = {name: lambda words=words: time_command(words, folder) for name, words in COMMANDS.items()}
        timers["first line of a search"] = lambda: time_first_line(folder)
        for name, timer in timers.items():
            timer()
            wall, processor = (min(column) for column in zip(*(timer() for _ in range(arguments.repeats)), strict=True))
            found[name] = {"seconds": round(wall, 3), "processor": round(processor, 3), "limit": LIMITS.get(name)}
            print(f"{name:<24} {wall:6.2f} s  {processor:6.2f} s of a processor")
    machine = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"
    print(machine)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps({"machine": machine, "found": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
