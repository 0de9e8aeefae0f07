"""Start-up of the command line: seconds until a verb has ended, or until a search has its first line or evaluation.

    python experiments/performance/startup.py [--repeats 5] [--only NAME] [--before DIR] [--out startup.json]

With --before, a checkout of an earlier version, each command also runs there, in alternation; the ratio of the
processor times is printed, now to before. The first evaluation is that of a pruned network, in a search of the digits
example.

Each figure is the least of several runs after one that warms the caches: wall time, and processor time, which other
load of the machine does not change as much. The runs that are read are the golden ones of the tests.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe_machine

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
LIMITS = {
    "help": 0.3,
    "runs": 0.5,
    "front": 0.5,
    "show": 0.5,
    "unknown criterion": 1.0,
    "first line of a search": 1.0,
    "first evaluation": 6.0,
}
"""Seconds that were asked for."""


SEARCHES = {"first line of a search": "", "first evaluation": " blendsearch.events: evaluated:"}
"""Text of the line of a search's output at which it is ended; any line where it is empty."""


def time_command(words: list[str], until: str | None, folder: str, checkout: Path) -> tuple[float, float]:
    """Return the wall and the processor seconds of a command, which is ended at a line that contains `until`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    command = [sys.executable, "-m", "blendsearch", *words]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        found = any(until is not None and until in line for line in process.stdout)
        wall = time.perf_counter() - start
        process.kill()
    assert found or until is None, f"{words} printed no line with {until!r}"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure_least(
    words: list[str], until: str | None, checkouts: list[Path], repeats: int
) -> list[tuple[float, float]]:
    """Return the least wall and processor seconds of a command in each of `checkouts`, which take turns."""
    found: list[list[tuple[float, float]]] = [[] for _ in checkouts]
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(repeats + 1):
            for checkout, times in zip(checkouts, found, strict=True):
                seconds = time_command(words, until, folder, checkout)
                if turn:  # the first one warms the caches
                    times.append(seconds)
    return [(min(wall for wall, _ in times), min(own for _, own in times)) for times in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", help="measure this figure alone")
    parser.add_argument("--before", type=Path, help="checkout of the version to compare with")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    checkouts = [ROOT] if arguments.before is None else [ROOT, arguments.before.resolve()]
    cases: dict[str, tuple[list[str], str | None]] = {name: (words, None) for name, words in COMMANDS.items()}
    cases |= {name: (["search", "-vv"], until) for name, until in SEARCHES.items()}
    out = arguments.out
    found = json.loads(out.read_text(encoding="utf-8"))["found"] if out is not None and out.exists() else {}
    for name in cases if arguments.only is None else [arguments.only]:
        (wall, processor), *before = measure_least(*cases[name], checkouts, arguments.repeats)
        found[name] = {"seconds": round(wall, 3), "processor": round(processor, 3), "limit": LIMITS.get(name)}
        found[name]["machine"] = describe_machine()
        text = f"{name:<24} {wall:6.2f} s  {processor:6.2f} s of a processor"
        for _, earlier in before:
            found[name] |= {"processor_before": round(earlier, 3), "ratio": round(processor / earlier, 3)}
            text += f", {processor / earlier:.2f} of the earlier {earlier:.2f} s"
        print(text, flush=True)
    print(describe_machine())
    if out is not None:
        out.write_text(json.dumps({"found": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
