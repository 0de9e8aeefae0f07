"""Measure how the work of the controller grows with the evaluations of a run, and the readers of a large run.

    python experiments/performance/growth.py [--out growth.json] [--cases cma-steady,nsga2-generational]
        [--evaluations 50000] [--folder DIR]

The search is real: its loop, its optimizers, its store, on a ResNet-20 (random weights) in generations of 24. An engine
answers at once with a loss that is a pure function of the cut. So all measured time is the controller's: the optimizer,
decoding, the store, checkpoints and events. Each case runs in its own process and reports, at each milestone,
milliseconds of processor and of wall time per evaluation over the last 480 evaluations, those outside decoding, the
decoded genomes per evaluation (an optimizer that has converged draws known cuts more often and drops them), and the
growth of resident memory per evaluation since the first milestone. Then come the seconds from the last evaluation to
the end of the search, of a resumption until its first request (in the same process, with the problem built), and of
`front`, `status`, `runs` (whole processes, the median of three) and of the reads of a served page.

The JSON file is written after each step. With --folder, run directories stay there; one in memory, such as /dev/shm,
leaves out the time of the disk.
"""

import argparse
import gc
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

import numpy as np
import torch

from blendsearch.blend.decoder import Decoder
from blendsearch.blend.genome import Genome
from blendsearch.engine.base import submit_nothing
from blendsearch.events import Event, ignore_event
from blendsearch.fitness.evaluator import Outcome, Request
from blendsearch.pipeline.loop import search
from blendsearch.pipeline.problem.builder import build_problem
from blendsearch.pipeline.problem.persistence import record
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.runs.config.loading import parse_config
from blendsearch.runs.run import Run, open_run
from blendsearch.runs.worker_logs import WorkerLogs
from blendsearch.structure.groups import Cut

MILESTONES = (1_000, 5_000, 10_000, 20_000, 50_000)
WINDOW = 480
POPULATION = 24
TOKEN = "a-token-that-only-this-script-knows"
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "cma": {"budget": {"macs": 0.5}},
    "nsga2": {"budget": {"macs": [0.25, 0.6]}},
    "nsga3": {"budget": {"macs": [0.25, 0.6], "params": [0.25, 0.7]}},
    "random": {"budget": {"macs": 0.5}, "search": {"optimizer": "random"}},
}
CASES = [f"{optimizer}-{schedule}" for schedule in ("generational", "steady") for optimizer in OPTIMIZERS]


class FirstRequest(Exception):
    """A resumed search has submitted its first request."""


@dataclass
class InstantEngine:
    """An engine whose evaluations take no time: the loss is the weighted share of missing channels.

    `stops` makes it raise `FirstRequest` instead of evaluating.
    """

    channels: int
    stops: bool = False
    workers: int = 1
    busy_workers: int = 0
    wish: Any = field(init=False)
    queue: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.wish = np.random.default_rng(0).random(self.channels) ** 4
        self.wish /= self.wish.sum()

    def submit(self, asked: Request) -> None:
        if self.stops:
            raise FirstRequest
        self.queue.append(asked)

    def iter_outcomes(self, feed: Callable[[], None] = submit_nothing) -> Iterator[Outcome]:
        while True:
            feed()
            if not self.queue:
                return
            asked = self.queue.pop()
            loss = 1 - float(self.wish[asked.unpack_cut()].sum())
            test = (loss, loss / 2) if asked.split == "both" else None
            yield Outcome(asked.digest, loss, loss / 2, 1e-6, seed=asked.seed, test=test)

    def start_telemetry(self, run: str, logs: WorkerLogs) -> None:
        """Write no logs."""

    def receive_event(self, event: Event) -> None:
        """Publish nothing."""

    def close(self) -> None:
        self.queue.clear()


@dataclass
class Meter:
    """A reporter that notes clocks and memory before and at each milestone."""

    save: Callable[[dict[str, Any]], None]
    decoding: "DecodingMeter"
    count: int = 0
    began: tuple[float, float, float, int] = (0.0, 0.0, 0.0, 0)
    last: float = 0.0
    first_memory: int = 0

    def report(self, event: Event) -> None:
        if event.kind != "evaluated":
            return
        self.count += 1
        self.last = time.perf_counter()
        if self.count + WINDOW in MILESTONES:
            self.began = time.process_time(), self.last, self.decoding.seconds, self.decoding.count
        elif self.count in MILESTONES:
            own, wall = time.process_time() - self.began[0], self.last - self.began[1]
            decoding, decoded = self.decoding.seconds - self.began[2], self.decoding.count - self.began[3]
            gc.collect()
            memory = read_resident_bytes()
            self.first_memory = self.first_memory or memory
            more = self.count - MILESTONES[0]
            self.save(
                {
                    "evaluations": self.count,
                    "processor_ms": 1e3 * own / WINDOW,
                    "outside_decoding_ms": 1e3 * (own - decoding) / WINDOW,
                    "decoded_per_evaluation": decoded / WINDOW,
                    "wall_ms": 1e3 * wall / WINDOW,
                    "memory_mb": memory / 1e6,
                    "bytes_per_evaluation": (memory - self.first_memory) / more if more else None,
                }
            )


class DecodingMeter:
    """Counts the genomes that all decoders of this process decode from now on, and their processor seconds."""

    def __init__(self) -> None:
        self.count, self.seconds = 0, 0.0
        decode = Decoder.decode

        def measure(decoder: Decoder, genome: Genome) -> Cut:
            began = time.process_time()
            cut = decode(decoder, genome)
            self.count, self.seconds = self.count + 1, self.seconds + time.process_time() - began
            return cut

        Decoder.decode = measure  # type: ignore[method-assign]


def read_resident_bytes() -> int:
    """Read the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def make_problem(case: str, evaluations: int, data: Path) -> Problem:
    """Build the problem of a case, on random images."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        np.savez(
            data / f"{split}.npz",
            x=rng.integers(0, 256, (200, 32, 32, 3), dtype=np.uint8),
            y=np.arange(200) % 10,
        )
    optimizer, schedule = case.split("-")
    extra = OPTIMIZERS[optimizer]
    tree = {
        "model": {"factory": "cifar_resnet", "arguments": {"depth": 20}, "train": {"epochs": 0.01}},
        "data": {"dataset": "npz", "train": str(data / "train.npz"), "test": str(data / "test.npz")},
        "criteria": {"pool": ["l1", "l2", "fpgm", "bn_gamma", "apoz", "taylor_gate"], "images": 32},
        "budget": extra["budget"],
        "search": {
            "population": POPULATION,
            "evaluations": evaluations,
            "schedule": schedule,
            **extra.get("search", {}),
        },
    }
    return build_problem(parse_config(tree, "growth"), ignore_event)


def measure_case(case: str, evaluations: int, folder: Path, save: Callable[[dict[str, Any]], None]) -> None:
    """Search one case in this process, then resume it with more evaluations until its first request."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as data:
        problem = make_problem(case, evaluations, Path(data))
    run = record(problem, folder, case, ["growth"])
    channels = problem.structure.maps.channels
    meter = Meter(save, DecodingMeter())
    search(run, problem, InstantEngine(channels), meter.report)
    save({"last_stages_s": time.perf_counter() - meter.last})
    seconds = measure_resumption(run, problem, evaluations + POPULATION)
    save({"resume_s": seconds, "database_bytes": (run.path / "run.sqlite").stat().st_size})
    checkpoints = [path.stat().st_size for path in (run.path / "checkpoints").glob("*.json")]
    save({"checkpoint_bytes": max(checkpoints, default=0)})


def measure_resumption(run: Run, problem: Problem, evaluations: int) -> float:
    """Measure the seconds until a search of `evaluations` that resumes `run` submits its first request."""
    config = problem.config
    longer = config.model_copy(update={"search": config.search.model_copy(update={"evaluations": evaluations})})
    began = time.perf_counter()
    try:
        search(run, replace(problem, config=longer), InstantEngine(problem.structure.maps.channels, True), ignore_event)
    except FirstRequest:
        return time.perf_counter() - began
    raise AssertionError("the resumed search submitted no request")


def measure_readers(name: str, folder: Path) -> dict[str, Any]:
    """Measure the seconds of the commands and of the page that read run `name`."""
    found: dict[str, Any] = {}
    write_log(name, folder)
    for words in (("front", name), ("status", name), ("runs",)):
        found[f"{words[0]}_s"] = statistics.median(
            measure_command([*words, "--runs", str(folder), "--json"]) for _ in range(3)
        )
    return found | measure_page(name, folder)


def write_log(name: str, folder: Path) -> None:
    """Write the log that a worker would have written: a line per evaluation."""
    run = open_run(folder, name)
    with run.open_store(read_only=True) as store:
        rows = store.read_bare_evaluations()
    lines = [
        {"at": 1e9 + row.id, "worker": 0, "event": "evaluated", "digest": row.digest, "split": "val", "loss": row.loss}
        for row in rows
    ]
    folder = run.path / "logs"
    folder.mkdir(exist_ok=True)
    (folder / "worker-0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def measure_command(words: list[str]) -> float:
    """Measure the wall seconds of one command, from the start of its process to its end."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "blendsearch", *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def measure_page(name: str, folder: Path) -> dict[str, float]:
    """Measure the reads of a served page: the run's status, and the first event of its stream."""
    command = [sys.executable, "-m", "blendsearch", "serve", "--runs", str(folder), "--port", "0", "--json"]
    environment = {**os.environ, "BLENDSEARCH_TOKEN": TOKEN}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
    assert process.stdout is not None
    found = {}
    try:
        url = json.loads(process.stdout.readline())["url"]
        for key, path, size in (
            ("page_list_s", "runs", -1),
            ("page_run_s", f"runs/{name}", -1),
            ("page_front_s", f"runs/{name}/front", -1),
            ("page_history_s", f"runs/{name}/course", -1),
            ("page_events_s", f"runs/{name}/events", 4096),
        ):
            began = time.perf_counter()
            asked = HttpRequest(f"{url}/api/{path}", headers={"authorization": f"Bearer {TOKEN}"})
            with urlopen(asked, timeout=300) as answer:
                answer.read(size)
            found[key] = time.perf_counter() - began
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()
    return found


def describe_machine() -> str:
    """Describe the processor and its cores."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return (
        f"{model.group(1) if model else 'unknown processor'}, {os.cpu_count()} cores, Python {sys.version.split()[0]}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--evaluations", type=int, default=MILESTONES[-1])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:

        def save_line(facts: dict[str, Any]) -> None:
            print(json.dumps(facts), flush=True)

        measure_case(arguments.one, arguments.evaluations, arguments.folder, save_line)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        measure_cases(arguments.cases.split(","), arguments.evaluations, folder, arguments.out)


def measure_cases(cases: list[str], evaluations: int, folder: Path, out: Path) -> None:
    """Measure every case in a process of its own; write `out` after each step."""
    held: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {}
    held["machine"] = describe_machine()
    for case in cases:
        facts: dict[str, Any] = {"milestones": []}
        held.setdefault("cases", {})[case] = facts
        command = [sys.executable, __file__, "--one", case, "--evaluations", str(evaluations), "--folder", str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            step = json.loads(line)
            if "processor_ms" in step:
                facts["milestones"].append(step)
            else:
                facts |= step
            print(f"{case}: {line.strip()}", flush=True)
            out.write_text(json.dumps(held, indent=1) + "\n")
        if process.wait():
            raise SystemExit(f"{case} ended with code {process.returncode}")
        facts |= measure_readers(case, folder)
        print(f"{case}: {json.dumps(facts, default=str)}", flush=True)
        out.write_text(json.dumps(held, indent=1) + "\n")


if __name__ == "__main__":
    main()
