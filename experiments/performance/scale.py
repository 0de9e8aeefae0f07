"""Simulate a search on 1,000 GPU workers with ImageNet: find what limits the number of workers.

    python experiments/performance/scale.py [--workers 10,100,1000] [--evaluations 20000] [--ray-workers 10,100]
        [--out scale.json]

- Controller: the real steady loop, optimizer, decoder and store search a ResNet-50 (random weights) on a virtual clock.
  Evaluations take 2 to 60 s (log-uniform, mean 17 s). The controller's processor seconds and its waits for the disk are
  added to the clock; no worker receives a request meanwhile. Evaluations that end meanwhile are ready together. Reports
  milliseconds per candidate by part, and those of the last fifth of the candidates beside the second fifth. `busy`
  counts from when all workers had work; the ladder waits once for all of them, before its first training. Waits for the
  disk include those for a core.
- Ray: the real engine (`RayEngine`) on a local Ray. Its workers are calls of one actor that sleep, so that 1,000 of
  them can be outstanding; about 60 end in a second for any number of workers. Reports processor milliseconds per
  outcome of the engine's thread and of its whole process, and the bytes of the loopback interface, with Ray's own
  messages.
- Sizes: pickled request and outcome, the object that a node holds for its workers (at the size of ImageNet from the
  shapes), the run directory, and the rows per second that SQLite commits, one by one and in groups.

Prints how many workers each part keeps busy; the least is the first bottleneck.
"""

import argparse
import heapq
import json
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe_machine
from scale_engine import LONGEST, SHORTEST, compute_duration, measure_engine

from blendsearch.blend.decoder import Decoder
from blendsearch.engine.base import submit_nothing
from blendsearch.engine.ray_engine import MAX_READY
from blendsearch.events import ignore_event
from blendsearch.fitness.evaluator import Outcome, Request, make_request
from blendsearch.pipeline import steady
from blendsearch.pipeline.optimizers.cma_es import Cma
from blendsearch.pipeline.problem.builder import build_problem
from blendsearch.pipeline.problem.persistence import record
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.pipeline.problem.session import SearchSession
from blendsearch.runs.config.loading import parse_config
from blendsearch.runs.records import Evaluation
from blendsearch.runs.run import Run
from blendsearch.runs.store import Store

MEAN = (LONGEST - SHORTEST) / float(np.log(LONGEST / SHORTEST))
PER_WORKER = 20
"""Largest number of evaluations per worker."""

LEAST = 2_000
"""Least number of evaluations."""

TARGET = 100_000
"""Evaluations of the search that sizes are extrapolated to."""

PARTS = ("sizes", "controller", "engine")

WORKERS_PER_NODE = 8
SIDE, CLASSES = 224, 1_000
IMAGES = {"train": 1_281_167, "validation": 10_000, "recalibration": 512}
"""Images of ImageNet: all for distillation, the others for the evaluation of a candidate."""

NETWORK_BYTES = 10e9 / 8
"""Bytes per second of a network of 10 Gbit/s."""

ROWS, SAMPLE = 1_920, 64
GROUPS = (1, 8, 64)
"""Numbers of rows that are committed together."""


class PartTimer:
    """Processor seconds of the parts of the controller's work, and waits for the disk."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        self.disk = 0.0
        self._open: list[str] = []
        for owner, name, part in (
            (Decoder, "decode", "decode"),
            (Cma, "ask_one", "ask"),
            (Cma, "tell_one", "learn"),
            (Store, "add_all", "store"),
            (Store, "add_generation", "generation"),
            (steady, "record_generation", "summary"),
            (steady, "save_checkpoint", "checkpoint"),
            (steady.CandidateTracker, "state_dict", "checkpoint"),
        ):
            self._wrap(owner, name, part)

    def _wrap(self, owner: Any, name: str, part: str) -> None:
        inner = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            with self._measure(part):
                return inner(*arguments, **named)

        setattr(owner, name, timed)

    @contextmanager
    def _measure(self, part: str) -> Iterator[None]:
        """Add the seconds of a part, without those of parts inside."""
        own, wall = time.thread_time(), time.perf_counter()
        self._open.append(part)
        self.calls[part] = self.calls.get(part, 0) + 1
        try:
            yield
        finally:
            self._open.pop()
            spent = time.thread_time() - own
            self.seconds[part] = self.seconds.get(part, 0.0) + spent
            if self._open:
                self.seconds[self._open[-1]] = self.seconds.get(self._open[-1], 0.0) - spent
            if part in ("store", "generation"):
                self.disk += max(0.0, time.perf_counter() - wall - spent)


@dataclass
class VirtualCluster:
    """An engine with `workers` simulated workers and a virtual clock.

    Attributes
    ----------
    marks: the controller's processor seconds at each outcome.
    """

    workers: int
    channels: int
    timer: PartTimer
    now: float = 0.0
    seconds: float = 0.0
    disk: float = 0.0
    marks: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)
    queue: list[Request] = field(default_factory=list)
    running: list[tuple[float, int, Request]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._worth = np.random.default_rng(0).random(self.channels) ** 4
        self._worth /= self._worth.sum()
        self._left, self.disk = time.thread_time(), self.timer.disk

    @property
    def busy_workers(self) -> int:
        return len(self.running)

    def submit(self, request: Request) -> None:
        self.queue.append(request)

    def iter_outcomes(self, feed: Callable[[], None] = submit_nothing) -> Iterator[Outcome]:
        while True:
            feed()
            self._advance()
            self._start()
            if not self.running:
                return
            ready = [heapq.heappop(self.running)]
            self.now = max(self.now, ready[0][0])
            while self.running and self.running[0][0] <= self.now and len(ready) < MAX_READY:
                ready.append(heapq.heappop(self.running))
            outcomes = [self._make_outcome(request) for _, _, request in ready]
            self._left = time.thread_time()
            for outcome in outcomes:
                self.marks.append(self.seconds)
                yield outcome

    def _make_outcome(self, request: Request) -> Outcome:
        loss = 1 - float(self._worth[request.unpack_cut()].sum())
        return Outcome(request.digest, loss, loss / 2, compute_duration(request), seed=request.seed)

    def _advance(self) -> None:
        """Add the controller's work since the last outcome to the clock."""
        spent, waited = time.thread_time() - self._left, self.timer.disk - self.disk
        self.seconds, self.disk = self.seconds + spent, self.timer.disk
        self.now += spent + waited

    def _start(self) -> None:
        free = self.workers - len(self.running)
        for request in self.queue[:free]:
            seconds = compute_duration(request)
            self.starts.append(self.now)
            self.durations.append(seconds)
            heapq.heappush(self.running, (self.now + seconds, len(self.starts), request))
        del self.queue[:free]

    def compute_busy_share(self, after: int) -> float:
        """Compute how busy the workers were from the start of evaluation number `after` to that of the last one."""
        first, last = self.starts[min(after, len(self.starts) - 1)], self.starts[-1]
        starts, durations = np.array(self.starts), np.array(self.durations)
        inside = np.clip(starts + durations, first, last) - np.clip(starts, first, last)
        return float(inside.sum() / (self.workers * (last - first)))


def make_problem(folder: Path) -> Problem:
    """Build the problem on a few small images: widths of a ResNet-50 are the same at any size."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        images = rng.integers(0, 256, (100, 64, 64, 3), dtype=np.uint8)
        np.savez(folder / f"{split}.npz", x=images, y=np.arange(100) % 10)
    tree = {
        "model": {"factory": "torchvision:resnet50", "train": {"epochs": 0.01}},
        "data": {"dataset": "npz", "train": str(folder / "train.npz"), "test": str(folder / "test.npz")},
        "criteria": {"pool": ["l1", "l2", "fpgm", "bn_gamma", "apoz", "taylor_gate"], "images": 16},
        "budget": {"macs": 0.5},
        "fitness": {"repair": "none", "recalibration_images": 16},
        "search": {"schedule": "steady", "evaluations": TARGET},
    }
    return build_problem(parse_config(tree, "scale"), ignore_event)


def measure_controller(
    problem: Problem, workers: int, evaluations: int, timer: PartTimer, folder: Path
) -> dict[str, Any]:
    """Search with `workers` simulated workers; return the controller's milliseconds and the sizes of the run."""
    search = problem.config.search.model_copy(update={"evaluations": evaluations})
    problem = replace(problem, config=problem.config.model_copy(update={"search": search}))
    run = record(problem, folder, f"workers-{workers}", ["scale"])
    timer.seconds.clear()
    timer.calls.clear()
    timer.disk = 0.0
    engine = VirtualCluster(workers, problem.structure.maps.channels, timer)
    with run.open_store() as store:
        steady.run_steady(SearchSession(run, problem, engine, store, ignore_event))
    count = len(engine.marks)
    parts = {name: round(1e3 * spent / count, 3) for name, spent in sorted(timer.seconds.items())}
    total = 1e3 * engine.seconds / count
    second, last = measure_fifth(engine.marks, 1), measure_fifth(engine.marks, 4)
    return {
        "workers": workers,
        "evaluations": evaluations,
        "virtual_hours": round(engine.now / 3600, 2),
        "busy": round(engine.compute_busy_share(workers), 4),
        "busy_second_half": round(engine.compute_busy_share(len(engine.starts) // 2), 4),
        "processor_ms": round(total, 3),
        "disk_ms": round(1e3 * engine.disk / count, 3),
        "decodings_per_candidate": round(timer.calls["decode"] / count, 2),
        "rows_per_commit": round(count / timer.calls["store"], 2),
        "parts_ms": {**parts, "rest": round(total - sum(parts.values()), 3)},
        "second_fifth_ms": round(second, 3),
        "last_fifth_ms": round(last, 3),
        "growth": round(last / second, 3),
        **measure_run(run, evaluations),
    }


def measure_fifth(marks: list[float], number: int) -> float:
    """Compute the milliseconds per candidate of one fifth of the candidates, the first of which is 0."""
    size = len(marks) // 5
    return 1e3 * (marks[(number + 1) * size - 1] - marks[number * size]) / (size - 1)


def measure_run(run: Run, evaluations: int) -> dict[str, float]:
    """Measure the bytes of a run directory: those that grow with the evaluations, and the others."""
    sizes = {path.relative_to(run.path): path.stat().st_size for path in run.path.rglob("*") if path.is_file()}
    growing = sum(size for path, size in sizes.items() if path.name.startswith("run.sqlite"))
    return {"database_bytes_per_evaluation": round(growing / evaluations), "other_bytes": sum(sizes.values()) - growing}


def measure_store(problem: Problem, folder: Path) -> dict[str, Any]:
    """Measure wall and processor milliseconds per row that a store commits, by the rows of a commit, in alternation."""
    rng, fields = np.random.default_rng(1), json.dumps(problem.decoder.space.describe(draw_genome(problem, 0)))
    rows = []
    for number in range(1, ROWS + 1):
        cut = rng.bytes(problem.structure.maps.channels // 8)
        rows.append(
            Evaluation(number, f"{number:032x}", cut, "recalibrated", 1, 1, "evolved", fields, 1, 1, 0.5, 0.1, 9.0, "")
        )
    spent: dict[int, list[tuple[float, float]]] = {size: [] for size in GROUPS}
    with Store(folder / "rows.sqlite") as store:
        for start in range(0, ROWS, max(GROUPS) * len(GROUPS)):
            for place, size in enumerate(GROUPS):
                first = start + place * max(GROUPS)
                began = time.perf_counter(), time.process_time()
                for at in range(first, first + max(GROUPS), size):
                    store.add_all(rows[at : at + size], at)
                spent[size].append((time.perf_counter() - began[0], time.process_time() - began[1]))
    found = {
        f"commits of {size}": {
            name: round(1e3 * float(np.median([pair[place] for pair in pairs])) / max(GROUPS), 3)
            for place, name in enumerate(("wall_ms", "processor_ms"))
        }
        for size, pairs in spent.items()
    }
    one = found[f"commits of {GROUPS[0]}"]
    for row in found.values():
        row |= {f"{name[:-3]}_ratio": round(row[name] / one[name], 3) for name in ("wall_ms", "processor_ms")}
    return {**found, "rows_per_second": round(1e3 / one["wall_ms"], 1), "genome_bytes": len(fields)}


def draw_genome(problem: Problem, seed: int) -> Any:
    return problem.decoder.space.sample(np.random.default_rng(seed))


def measure_sizes(problem: Problem) -> dict[str, float]:
    """Measure pickled objects; compute from the shapes what a node holds for ImageNet."""
    from ray import cloudpickle

    cuts = np.random.default_rng(0).random((SAMPLE, problem.structure.maps.channels)) < 0.5
    requests = [make_request(cut, "recalibrated", 0) for cut in cuts]
    outcome = Outcome(requests[0].digest, 0.5, 0.1, 9.0, seed=requests[0].seed)
    buffers: list[pickle.PickleBuffer] = []
    held = cloudpickle.dumps(problem.evaluator, protocol=5, buffer_callback=buffers.append)
    arrays = sum(buffer.raw().nbytes for buffer in buffers)
    tensors = [*problem.model.parameters(), *problem.model.buffers()]
    model = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    evaluated = IMAGES["validation"] + IMAGES["recalibration"]
    return {
        "request_bytes": round(float(np.mean([len(cloudpickle.dumps(request, protocol=5)) for request in requests]))),
        "outcome_bytes": len(cloudpickle.dumps((outcome, []), protocol=5)),
        "evaluator_bytes_here": len(held) + arrays,
        "model_bytes": model,
        "node_image_bytes": evaluated * SIDE * SIDE * 3,
        "node_target_bytes": IMAGES["validation"] * CLASSES * 4,
        "teacher_bytes_per_view": IMAGES["train"] * CLASSES * 2,
        "node_bytes": evaluated * SIDE * SIDE * 3 + (1 + WORKERS_PER_NODE) * model,
    }


def summarize(results: dict[str, Any]) -> dict[str, Any]:
    """Compute for each part how many workers it keeps busy with evaluations of the mean duration."""
    controller, sizes = results["controller"][-1], results["sizes"]
    ray = results["ray"][-1]
    work = controller["processor_ms"] / 1e3
    limits = {
        "controller": MEAN / work,
        "controller with its waits for the disk": MEAN / (work + controller["disk_ms"] / 1e3),
        "engine": MEAN / (ray["thread_ms"] / 1e3),
        "controller and engine, one thread": MEAN / (work + ray["thread_ms"] / 1e3),
        "commits of the store, one by one": MEAN * results["store"]["rows_per_second"],
        f"commits of the store, {GROUPS[-1]} rows each": MEAN
        * 1e3
        / results["store"][f"commits of {GROUPS[-1]}"]["wall_ms"],
        "network of 10 Gbit/s": MEAN * NETWORK_BYTES / ray["loopback_bytes"],
    }
    limits = {name: round(limit) for name, limit in limits.items()}
    database = controller["database_bytes_per_evaluation"] * TARGET
    return {
        "mean_evaluation_seconds": round(MEAN, 2),
        "workers_kept_busy": limits,
        "first_bottleneck": min(limits, key=lambda name: limits[name]),
        "run_bytes": round(database + controller["other_bytes"] + results.get("logs_bytes_per_outcome", 0) * TARGET),
        "node_gigabytes": round(sizes["node_bytes"] / 1e9, 2),
    }


def measure_searches(problem: Problem, numbers: list[int], most: int, folder: Path) -> dict[str, Any]:
    """Measure the controller for each number of workers."""
    timer, rows = PartTimer(), []
    for workers in numbers:
        evaluations = min(most, max(LEAST, PER_WORKER * workers))
        rows.append(measure_controller(problem, workers, evaluations, timer, folder))
        print(json.dumps(rows[-1]), flush=True)
    return {"controller": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="10,100,1000")
    parser.add_argument("--evaluations", type=int, default=20_000)
    parser.add_argument("--ray-workers", default="10,100", help="numbers of calls outstanding on Ray")
    parser.add_argument("--parts", default=",".join(PARTS), help="the others are read from --out")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    numbers, on_ray = ([int(word) for word in words.split(",")] for words in (arguments.workers, arguments.ray_workers))
    chosen = arguments.parts.split(",")
    is_whole = set(chosen) == set(PARTS)
    results: dict[str, Any] = {} if is_whole or not arguments.out.exists() else json.loads(arguments.out.read_text())
    results["machine"] = describe_machine()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        problem = make_problem(folder)
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "sizes": lambda: {"sizes": measure_sizes(problem), "store": measure_store(problem, folder)},
            "engine": lambda: measure_engine(problem, on_ray, folder),
            "controller": lambda: measure_searches(problem, numbers, arguments.evaluations, folder),
        }
        for name in chosen:
            results |= parts[name]()
            print(f"{name} measured", flush=True)
            arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    results["summary"] = summarize(results)
    print(json.dumps(results["sizes"] | results["store"] | results["summary"], indent=1))
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
