"""Run the command line as ``python -m blendsearch`` does, in this process or as one of its own.

No module of blendsearch is imported by name, so that the golden tests survive moves inside the package.
"""

import contextlib
import io
import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import Request, urlopen

from golden.cases import RUNS, WEIGHTS, FreshCommand, GoldenRun
from golden.compare import COMPUTED, READ, describe_api, describe_files, describe_folder, describe_stream, mask

TOKEN = "a-token-that-only-tests-know"
UNCHANGED = ("config.yaml", "run.json", "dense.safetensors", "scores.safetensors")
"""Files of a run that resuming leaves as they are."""


class Ended(NamedTuple):
    """Exit code, standard output and standard error of a command."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Parse the one JSON value that was printed."""
        assert self.code == 0, self.err
        return json.loads(self.out)

    def lines(self) -> list[Any]:
        """Parse the printed events and the result after them; without events, the result alone."""
        if not self.out.startswith('{"event"'):
            return [self.json()]
        assert self.code == 0, self.err
        return [json.loads(line) for line in self.out.splitlines()]


def run_here(*words: str) -> Ended:
    """Run ``python -m blendsearch WORDS`` in this process, which imports torch only once."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    before, path = sys.argv, [*sys.path]
    sys.argv = ["blendsearch", *words]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_module("blendsearch", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        sys.argv, sys.path[:] = before, path
    return Ended(code, out.getvalue(), err.getvalue())


def start(*words: str, **variables: str) -> "subprocess.Popen[str]":
    """Start ``python -m blendsearch WORDS`` as a process, whose output is piped here."""
    return subprocess.Popen(
        [sys.executable, "-m", "blendsearch", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **variables},
        text=True,
    )


def run_apart(*words: str) -> Ended:
    """Run ``python -m blendsearch WORDS`` as a process."""
    process = start(*words)
    out, err = process.communicate()
    return Ended(process.returncode, out, err)


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve the runs in `folder`, and yield the server's address."""
    process = start("serve", "--runs", str(folder), "--port", "0", "--json", BLENDSEARCH_TOKEN=TOKEN)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.terminate()
        process.communicate()


def ask(url: str, path: str) -> Any:
    """Return the answer to a GET request below ``/api/``."""
    headers = {"authorization": f"Bearer {TOKEN}"}
    with urlopen(Request(f"{url}/api/{path}", headers=headers), timeout=60) as answer:
        return json.loads(answer.read())


def copy_runs(folder: Path) -> None:
    """Copy the golden runs and the trained digits network into `folder`."""
    shutil.copytree(RUNS, folder / "runs", dirs_exist_ok=True)
    shutil.copy(RUNS / "single" / "dense.safetensors", folder / WEIGHTS)


def read(*words: str) -> Any:
    """Return the masked JSON that a command prints which only reads runs."""
    return mask(run_here(*words, "--json").json(), READ)


def read_api(url: str, path: str) -> Any:
    """Return the masked answer of a server's API."""
    found = ask(url, path)
    return describe_api(found) if path == "openapi.json" else mask(found, READ)


def compute(command: FreshCommand) -> dict[str, Any]:
    """Run a command that computes; return what it prints and writes, as far as that is compared."""
    if command.without is not None:
        shutil.rmtree(command.without)
    lines = run_here(*command.words, "--json").lines()
    found: dict[str, Any] = {"printed": mask(lines, COMPUTED) if command.portable else describe_stream(lines)}
    if command.wrote is not None:
        described = describe_folder(Path(command.wrote))
        found["wrote"] = mask(described, COMPUTED) if command.portable else describe_files(described)
    return found


def resume(item: GoldenRun) -> dict[str, Any]:
    """Resume an interrupted run in spite of changed code and versions; return what that prints and writes."""
    lines = run_here("resume", item.name, "--accept", "code,versions,device", "--json").lines()
    printed = mask(lines, COMPUTED) if item.portable else describe_stream(lines)
    wrote = describe_files(describe_folder(Path("runs") / item.name))
    return {"printed": printed, "wrote": {name: files for name, files in wrote.items() if name not in UNCHANGED}}
