"""Measure the live page's server under load: the list of runs, and the pace of a search beside it.

    python experiments/performance/service_load.py [--runs 56] [--half-open 1000] [--streams 200] [--seconds 20]

Serves a folder of finished runs on loopback. Holds connections that have sent half a request line, and event streams:
half of them of the list, half spread over the runs. Measures the latency of `GET /api/runs` without and with them,
alone and beside a search, and the search's evaluations per second in alternating periods without and with the load.
"""

import argparse
import asyncio
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from blendsearch.runs.run import open_run
from blendsearch.service.processes import ProcessManager

TOKEN = "a-token-for-this-measurement"
BEARER = f"Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
PERIODS = 4
"""Periods without load, each followed by one with it."""

CONFIG: dict[str, Any] = {
    "model": {"factory": "digits_net", "arguments": {"width": 16}, "train": {"epochs": 1}},
    "data": {"dataset": "digits", "val_size": 0.3},
    "criteria": {"pool": ["l1", "bn_gamma"], "images": 64},
    "budget": {"macs": 0.5, "round_to": 1},
    "fitness": {"recalibration_images": 128, "device": "cpu"},
    "search": {"evaluations": 16, "population": 8},
    "engine": {"threads": 1, "workers": 1},
}


@dataclass
class Load:
    """Half-open connections, renewed when the server closes them, and event streams whose events are counted."""

    port: int
    half_open: int
    paths: list[str]
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    held: int = 0
    streams: int = 0
    events: int = 0

    async def start(self) -> None:
        """Open all, and wait until they are held."""
        self.tasks += [asyncio.create_task(self._hold()) for _ in range(self.half_open)]
        self.tasks += [asyncio.create_task(self._follow(path)) for path in self.paths]
        async with asyncio.timeout(120):
            while self.held < self.half_open or self.streams < len(self.paths):
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks.clear()

    async def _hold(self) -> None:
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(b"GET /api/ru")
                self.held += 1
                with suppress(ConnectionError):
                    await reader.read()
            finally:
                self.held -= 1
                writer.close()

    async def _follow(self, path: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(f"GET /api/{path} HTTP/1.1\r\n{BEARER}\r\n".encode())
            status = await reader.readline()
            assert b" 200 " in status, status
            self.streams += 1
            while piece := await reader.read(65536):
                self.events += piece.count(b"data: ")
        finally:
            writer.close()


def ask_list(port: int) -> float:
    """Return the milliseconds that `GET /api/runs` takes on a new connection."""
    start, found = time.perf_counter(), b""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(f"GET /api/runs HTTP/1.1\r\n{BEARER}Connection: close\r\n\r\n".encode())
        while piece := connection.recv(65536):
            found += piece
    assert b" 200 OK" in found.partition(b"\r\n")[0], found[:200]
    return 1000 * (time.perf_counter() - start)


async def time_list(port: int, seconds: float) -> list[float]:
    """Ask for the list every quarter of a second, for so long."""
    found, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        found.append(await asyncio.to_thread(ask_list, port))
        await asyncio.sleep(0.25)
    return found


def describe_times(times: list[float]) -> dict[str, float]:
    """Describe latencies in milliseconds."""
    ordered = sorted(times)
    return {
        "requests": len(times),
        "median_ms": round(statistics.median(times), 2),
        "p95_ms": round(ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 2),
        "max_ms": round(ordered[-1], 2),
    }


def read_cpu_seconds(pid: int) -> float:
    """Read the processor seconds of a process."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def count_handles(pid: int, name: str) -> dict[str, int]:
    """Count the handles of a process on the files called `name`, by folder."""
    found: dict[str, int] = {}
    for item in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            path = Path(os.readlink(item))
            if path.name == name:
                found[path.parent.name] = found.get(path.parent.name, 0) + 1
    return found


def make_runs(folder: Path, count: int) -> None:
    """Search once, and copy the run."""
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    words = [sys.executable, "-m", "blendsearch", "search", str(folder / "config.yaml"), "--runs", str(folder / "runs")]
    subprocess.run([*words, "--name", "run-0"], check=True, stdout=subprocess.DEVNULL)
    for number in range(1, count):
        shutil.copytree(folder / "runs" / "run-0", folder / "runs" / f"run-{number}")


@contextmanager
def serve(runs: Path) -> Iterator[tuple[int, int]]:
    """Serve `runs`; gives port and process id."""
    words = [sys.executable, "-m", "blendsearch", "serve", "--runs", str(runs), "--port", "0", "--json"]
    environment = {**os.environ, "BLENDSEARCH_TOKEN": TOKEN}
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        try:
            yield urlsplit(json.loads(process.stdout.readline())["url"]).port or 0, process.pid
        finally:
            process.terminate()


@contextmanager
def search(runs: Path) -> Iterator[str]:
    """Search without an end, in a separate process, once it evaluates."""
    processes, tree = ProcessManager(runs), CONFIG | {"search": {"evaluations": 1_000_000, "population": 8}}
    processes.start("busy", ["search", "CONFIG", "--runs", str(runs), "--name", "busy"], yaml.safe_dump(tree))
    try:
        end = time.monotonic() + 120
        while count_evaluations(runs, "busy") < 20:
            assert time.monotonic() < end and processes.is_running("busy"), processes.read_output("busy")
            time.sleep(0.2)
        yield "busy"
    finally:
        processes.stop("busy")


def count_evaluations(runs: Path, name: str) -> int:
    """Count the evaluations of a run; 0 before it exists."""
    if not (runs / name / "run.json").exists():
        return 0
    with open_run(runs, name).open_store(read_only=True) as store:
        return store.tally("dense").evaluations


async def measure(runs: Path, port: int, pid: int, asked: argparse.Namespace) -> dict[str, Any]:
    """Measure the server alone, and beside a search."""
    paths = ["events"] * (asked.streams - asked.streams // 2)
    paths += [f"runs/run-{number % asked.runs}/events" for number in range(asked.streams // 2)]
    found: dict[str, Any] = {"alone": {"without_load": describe_times(await time_list(port, asked.seconds / 2))}}
    load = Load(port, asked.half_open, paths)
    await load.start()
    await asyncio.sleep(3)
    cpu, start = read_cpu_seconds(pid), time.monotonic()
    found["alone"]["with_load"] = describe_times(await time_list(port, asked.seconds / 2))
    found["alone"]["share_of_a_core_with_load"] = round((read_cpu_seconds(pid) - cpu) / (time.monotonic() - start), 3)
    handles = count_handles(pid, "run.sqlite-wal")  # one per connection
    found["held"] = {"half_open": load.held, "streams": load.streams, "events": load.events}
    found["most_handles_per_run"], found["runs_with_handles"] = max(handles.values(), default=0), len(handles)
    await load.stop()
    with search(runs) as name:
        found["beside_a_search"] = await compare_pace(runs, name, port, Load(port, asked.half_open, paths), asked)
    return found


async def compare_pace(runs: Path, name: str, port: int, load: Load, asked: argparse.Namespace) -> dict[str, Any]:
    """Measure the pace of the search and the latency of the list, in alternating periods without and with the load."""
    times: dict[str, list[float]] = {"without_load": [], "with_load": []}
    paces: dict[str, list[float]] = {"without_load": [], "with_load": []}
    for _ in range(PERIODS):
        for key in times:
            if key == "with_load":
                await load.start()
            await asyncio.sleep(2)
            before, start = count_evaluations(runs, name), time.monotonic()
            times[key] += await time_list(port, asked.seconds)
            paces[key].append((count_evaluations(runs, name) - before) / (time.monotonic() - start))
        await load.stop()
        load.streams = 0
    ratios = [loaded / free for free, loaded in zip(paces["without_load"], paces["with_load"], strict=True)]
    found: dict[str, Any] = {key: describe_times(values) for key, values in times.items()}
    found["evaluations_per_second"] = {key: [round(value, 2) for value in values] for key, values in paces.items()}
    found["pace_ratios"] = [round(ratio, 3) for ratio in ratios]
    found["pace_ratio"] = round(sum(paces["with_load"]) / sum(paces["without_load"]), 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=56)
    parser.add_argument("--half-open", type=int, default=1000)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of a period")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        make_runs(Path(folder), arguments.runs)
        with serve(Path(folder) / "runs") as (port, pid):
            results = asyncio.run(measure(Path(folder) / "runs", port, pid, arguments))
    asked = {"runs": arguments.runs, "half_open": arguments.half_open, "streams": arguments.streams}
    results = {"cores": os.cpu_count(), "load_average_after": os.getloadavg()[0], **asked, **results}
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
