"""Make the golden runs and their expected output, with the blendsearch that is imported.

They represent existing runs, and programs that read the output. A change that makes them differ breaks these. Run this
only on purpose: where stored data or printed JSON is meant to change, or to add a case. Then review the difference.

    python tests/golden/make.py            # runs, export and expected output
    python tests/golden/make.py expected   # the expected output only, from the existing runs

The run directories are those of commit f9a8434, and the surrogate optimizer exists only there: to make all runs again,
put a checkout of that commit first on PYTHONPATH. It takes five minutes on a quiet machine. Host names, process ids and
platforms are replaced; an absolute path in any file is an error. To save space, worker logs are cut after a few lines,
and databases are packed into small pages, which changes no row.
"""

import json
import os
import re
import shutil
import socket
import sqlite3
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from golden import cases, compare, driver
from golden.cases import EXPECTED, EXPORTED, FRESH_COMMANDS, GOLDEN_RUNS, RUNS, GoldenRun, Kill

ATTEMPTS = 20
"""Attempts to kill a process in the middle of a generation."""
LOGGED = 8
"""Lines of a worker's log that are kept."""


def main() -> None:
    """Make everything, or only the expected output."""
    if sys.argv[1:] not in ([], ["expected"]):
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        if not sys.argv[1:]:
            make_runs()
        shutil.rmtree(EXPECTED, ignore_errors=True)
        EXPECTED.mkdir()
        for name, content in record_output():
            save(EXPECTED / f"{name}.json", content)
            print(name, flush=True)
        os.chdir("/")
    check_clean()


def make_runs() -> None:
    """Search all golden runs in the working directory, clean them, and move them to their place."""
    for item in GOLDEN_RUNS:
        make_killed(item, item.kill) if item.kill else run_or_exit(*item.words)
        print(item.name, flush=True)
    for words in cases.COMPARISONS:
        run_or_exit(*words)
    search_in_python()
    run_or_exit("export", "single", "--to", "exported")
    for path in sorted(Path("runs").rglob("run.json")):
        clean(path.parent)
    for made, place in ((Path("runs"), RUNS), (Path("exported"), EXPORTED)):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(made, place)
        shutil.rmtree(made)


def run_or_exit(*words: str) -> str:
    """Run a command, and exit with its error if it fails."""
    ended = driver.run_here(*words, "--json")
    if ended.code:
        sys.exit(f"{' '.join(words)}: {ended.err}")
    return ended.out


def make_killed(item: GoldenRun, kill: Kill) -> None:
    """Search run `item` in a process, and kill it; repeat until that happened in the middle of a generation."""
    path = Path("runs") / item.name
    for _ in range(ATTEMPTS):
        shutil.rmtree(path, ignore_errors=True)
        process = driver.start(*item.words, "--json")
        assert process.stdout is not None
        wait_for(process.stdout, kill)
        process.kill()
        process.communicate()
        if is_mid_generation(path, kill):
            return
    sys.exit(f"{item.name} was not killed in the middle in {ATTEMPTS} attempts")


def wait_for(lines: Iterator[str], kill: Kill) -> None:
    """Read events until the one to kill after."""
    count, further = 0, 0
    for line in lines:
        if count == kill.count:
            further += 1
        elif json.loads(line).get("event") == kill.kind:
            count += 1
        if count == kill.count and further >= kill.further:
            return


def is_mid_generation(path: Path, kill: Kill) -> bool:
    """Check that rows follow the newest checkpoint and more are to come, or that the stage before has begun."""
    if (path / "finished.json").exists():
        return False
    if kill.kind != "generation":
        return (path / kill.kind).is_dir()
    config = json.loads((path / "run.json").read_text(encoding="utf-8"))["config"]
    stored = len(compare.describe_database(path / "run.sqlite")["evaluations"]["rows"]) - 1  # without the dense network
    found = sorted((path / "checkpoints").glob("generation-*.json"))
    asked = json.loads(json.loads(found[-1].read_text(encoding="utf-8"))["state"])["asked"] if found else 0
    return bool(asked < stored < config["search"]["evaluations"])


def search_in_python() -> None:
    """Search run ``python``: a network and data in Python, and an evaluation that fails for some networks."""
    import torch
    from sklearn.datasets import load_digits
    from torch import nn

    import blendsearch

    torch.manual_seed(0)
    digits = load_digits()
    images = (digits.images[:400, None] / 16).astype("float32")
    model = nn.Sequential(
        *(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Conv2d(6, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(12, 10)),
    )

    def evaluate(module: nn.Module) -> dict[str, float]:
        weights = torch.cat([item.detach().flatten() for item in module.parameters()])
        if len(weights) % 4 == 0:
            raise RuntimeError("this network has no loss")
        return {"loss": float(weights.abs().mean()), "largest": float(weights.abs().max())}

    arguments, sys.argv = sys.argv, ["-c"]  # stored as the command of the run
    blendsearch.search(
        model,
        (images, digits.target[:400]),
        budget={"macs": 0.6},
        evaluate=evaluate,
        evaluate_test=evaluate,
        evaluations=16,
        criteria={"pool": ["l1", "fpgm"], "images": 64},
        splits={"val_size": 0.3},
        fitness={"recalibration_images": 64, "device": "cpu"},
        evolution={"population": 8},
        engine={"threads": 1},
        name="python",
        progress=False,
    )
    sys.argv = arguments


def clean(path: Path) -> None:
    """Remove the traces of this machine from a run directory, and pack its database."""
    (path / "lock").unlink(missing_ok=True)
    facts = json.loads((path / "run.json").read_text(encoding="utf-8"))
    facts["provenance"]["platform"] = "Linux"
    (path / "run.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    engine = path / "engine.json"
    if engine.exists():
        noted = json.loads(engine.read_text(encoding="utf-8")) | {"host": "localhost"}
        engine.write_text(json.dumps(noted, indent=1), encoding="utf-8")
    for log in (path / "logs").glob("*.jsonl"):
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()[:LOGGED]]
        known = {"node": "localhost", "process": 1, "trace": "Traceback"}
        kept = [{key: known.get(key, item) for key, item in line.items()} for line in lines]
        log.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    pack(path / "run.sqlite")


def pack(path: Path) -> None:
    """Write the journal into the database, and rewrite that with the smallest pages."""
    connection = sqlite3.connect(path, isolation_level=None)
    for command in ("journal_mode = DELETE", "page_size = 512"):
        connection.execute(f"PRAGMA {command}")
    connection.execute("VACUUM")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def record_output() -> Iterator[tuple[str, Any]]:
    """Yield the name of each file and the output of its commands on the golden runs."""
    fill()
    for name, commands in cases.list_reading_commands().items():
        yield name, {" ".join(words): driver.read(*words) for words in commands}
    with driver.serve(Path("runs")) as url:
        yield "api", {path: driver.read_api(url, path) for path in cases.REQUESTS}
    for command in FRESH_COMMANDS:
        fill()
        yield f"new-{command.name}", driver.compute(command)
    for item in GOLDEN_RUNS:
        if item.kill and item.name not in cases.REMOVED:
            fill()
            yield f"resume-{item.name}", driver.resume(item)


def fill() -> None:
    """Empty the working directory, then copy the golden runs and the trained network into it."""
    for path in Path().iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    driver.copy_runs(Path())


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON with one line per entry at the top, without answers: these measure latencies and name folders."""
    kept = drop(content, "answer")
    if "latency" not in path.name:
        kept = clear_rows(kept, "latencies")
    lines = (f"{json.dumps(key)}: {json.dumps(item, separators=(',', ':'))}" for key, item in kept.items())
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def drop(value: Any, key: str) -> Any:
    """Drop the entries called `key` from a JSON value."""
    if isinstance(value, Mapping):
        return {name: drop(item, key) for name, item in value.items() if name != key}
    return [drop(item, key) for item in value] if isinstance(value, list | tuple) else value


def clear_rows(value: Any, table: str) -> Any:
    """Empty the rows of a table of ``run.sqlite``, wherever it is in a JSON value."""
    if isinstance(value, Mapping):
        return {
            name: {**item, "rows": []} if name == table and "rows" in item else clear_rows(item, table)
            for name, item in value.items()
        }
    return [clear_rows(item, table) for item in value] if isinstance(value, list | tuple) else value


def check_clean() -> None:
    """Exit with the golden files that contain an absolute path or the name of this machine."""
    host = re.escape(f'"{socket.gethostname()}"'.encode())
    machine = re.compile(rb"""["' =(](?!/api/)/[\w.-]+/|""" + host)
    files = (path for top in (RUNS, EXPORTED, EXPECTED) for path in top.rglob("*") if path.is_file())
    found = [str(path.relative_to(cases.HERE)) for path in files if machine.search(path.read_bytes())]
    if found:
        sys.exit(f"these files name this machine: {', '.join(found)}")


if __name__ == "__main__":
    main()
