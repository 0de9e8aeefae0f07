"""Record the first five minutes of a new user: ``python docs/recorded/record.py NAME [--package FOLDER]``.

Runs the commands of docs/first-five-minutes.md in an empty folder, writes what they print to ``NAME-*.txt`` beside this
file, and the times to ``NAME.json``. `--package` is a checkout of another version, for the picture before a change.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COMMANDS = {
    "typo": ["search", "--set", "criteria.pool=[l1, tailor_gate]"],
    "search": ["search"],
    "front": ["front", "digits-net-1"],
}
SENTENCES = ("Take network", "So far, take", "The best network found")
MAX_LINES = 40
"""A longer output is cut in its middle."""


class Line(NamedTuple):
    """A line of output, with the seconds and the processor seconds of the command until it appeared."""

    seconds: float
    processor: float
    text: str


def read_processor_seconds(pid: int) -> float:
    """Read the processor seconds of a process so far; 0 where the system does not tell them."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run_command(words: list[str], folder: Path, package: Path) -> tuple[list[Line], float]:
    """Run a command of blendsearch; return its lines, and the seconds of the whole."""
    return run_python(["-m", "blendsearch", *words], folder, package)


def run_python(arguments: list[str], folder: Path, package: Path) -> tuple[list[Line], float]:
    """Run Python with the blendsearch of `package`; return its lines, and the seconds of the whole."""
    start = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(package), "COLUMNS": "110", "PYTHONUNBUFFERED": "1"}
    lines = []
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(Line(time.perf_counter() - start, read_processor_seconds(process.pid), line.rstrip()))
    return lines, time.perf_counter() - start


def format_lines(words: list[str], lines: list[Line]) -> str:
    """Format a command and its output with the seconds at which lines appeared, without the middle of a long one."""
    shown = [f"{line.seconds:6.1f} s  {line.text}".rstrip() for line in lines]
    if len(shown) > MAX_LINES:
        shown = [*shown[: MAX_LINES // 2], "    ...", *shown[-MAX_LINES // 2 :]]
    return "\n".join([f"$ blendsearch {' '.join(words)}", *shown]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--package", type=Path, default=ROOT)
    arguments = parser.parse_args()
    times: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as place:
        for title, words in COMMANDS.items():
            lines, seconds = run_command(words, Path(place), arguments.package.resolve())
            text = format_lines(words, lines)
            (HERE / f"{arguments.name}-{title}.txt").write_text(text, encoding="utf-8")
            sentence = next((line for line in lines if line.text.startswith(SENTENCES)), None)
            places = {"first line": lines[0], "sentence": sentence, "end": lines[-1]._replace(seconds=seconds)}
            times[title] = {
                name: None if line is None else [round(line.seconds, 1), round(line.processor, 1)]
                for name, line in places.items()
            }
            print(text)
    load = os.getloadavg()[0]
    times["machine"] = f"{os.cpu_count()} cores, load {load:.1f}, Python {platform.python_version()}"
    (HERE / f"{arguments.name}.json").write_text(json.dumps(times, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(times, indent=1))


if __name__ == "__main__":
    main()
