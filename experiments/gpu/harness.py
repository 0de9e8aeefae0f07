"""What all parts share: arguments, results that are written after every step, networks and data, clocks."""

import argparse
import copy
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from blendsearch.data.splits import ArraySplit, DataSpec, Splits, load_splits
from blendsearch.fitness.evaluator import Evaluator, Request, make_request
from blendsearch.runs.config.loading import load_config
from blendsearch.structure.groups import Cut, IndexMaps
from blendsearch.structure.trace import Structure, trace_structure
from blendsearch.training.device import resolve_device
from blendsearch.training.recovery import Recipe
from blendsearch.training.refit import RefitOptions, make_refitter
from blendsearch.training.schedule import Schedule
from blendsearch.zoo.factory import build_model

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SHARED = next((path for path in (ROOT / "shared/data", ROOT.parent / "shared/data") if path.is_dir()), None)
"""The folder with CIFAR and the trained ResNet-56; None where it is absent, and synthetic images replace it."""

MAIN_JOB_FILES = ("unpack.py", "cifar10-train.webp.npz", "cifar10-test.webp.npz", "cifar10-resnet56.safetensors")

OVER_TIME, NO_RAY = "not run: out of time", "not run: Ray is not installed"


@dataclass(frozen=True)
class Arguments:
    """Options of every part: the device, toy sizes, folders for results and decoded data, and the time limit."""

    device: torch.device
    toy: bool
    out: Path
    work: Path
    minutes: float
    again: bool


def parse_arguments(doc: str | None, extend: Callable[[argparse.ArgumentParser], None] | None = None) -> Any:
    """Parse the command line; `extend` adds options."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--toy", action="store_true", help="sizes of a dry run")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the JSON files")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "blendsearch-gpu")
    parser.add_argument("--minutes", type=float, default=13.0, help="time limit")
    parser.add_argument("--again", action="store_true", help="repeat steps that have a result")
    if extend is not None:
        extend(parser)
    return parser.parse_args()


def make_arguments(parsed: argparse.Namespace, minutes: float) -> Arguments:
    """Resolve the device and make the folders."""
    for folder in (parsed.out, parsed.work):
        folder.mkdir(parents=True, exist_ok=True)
    return Arguments(resolve_device(parsed.device), parsed.toy, parsed.out, parsed.work, minutes, parsed.again)


def run_as_script(doc: str | None, name: str, measure: Callable[["Part"], None]) -> None:
    """Run one part from the command line and print its goals."""
    parsed = parse_arguments(doc)
    part = Part(name, make_arguments(parsed, parsed.minutes))
    part.run(measure)
    print(json.dumps(part.state, indent=1))
    sys.exit(1 if part.errors else 0)


class Part:
    """The results of one part, in a JSON file that is written after every step.

    A step that the file has a result of, from the same device and size, is not run again.
    """

    def __init__(self, name: str, arguments: Arguments) -> None:
        self.name, self.arguments = name, arguments
        self.path = arguments.out / f"{name}{'-toy' if arguments.toy else ''}.json"
        self.ends_at = time.monotonic() + 60 * arguments.minutes
        facts = {"device": describe_device(arguments.device), "torch": torch.__version__, "toy": arguments.toy}
        self.state: dict[str, Any] = facts | {"steps": {}, "goals": []}
        if self.path.exists() and not arguments.again:
            stored = json.loads(self.path.read_text("utf-8"))
            if facts == {key: stored.get(key) for key in facts}:
                self.state["steps"] = {key: row for key, row in stored["steps"].items() if "result" in row}

    @property
    def errors(self) -> dict[str, str]:
        """Return the errors of steps, by the step's name."""
        return {name: row["error"] for name, row in self.state["steps"].items() if "error" in row}

    @property
    def seconds_left(self) -> float:
        return self.ends_at - time.monotonic()

    def run(self, measure: Callable[["Part"], None]) -> None:
        """Run all steps; an exception between them is recorded like that of a step."""
        try:
            measure(self)
        except Exception as error:
            self._record("preparation", {"error": describe_error(error)})
        self.write()

    def step(self, name: str, function: Callable[[], Any], *, needs_ray: bool = False) -> Any:
        """Return the result of a step, stored or new; None if it fails, the time is over, or Ray is missing."""
        stored = self.state["steps"].get(name)
        if stored is not None and "result" in stored:
            return stored["result"]
        reason = OVER_TIME if self.seconds_left <= 0 else NO_RAY if needs_ray and not has_ray() else ""
        if reason:
            self._record(name, {"error": reason})
            return None
        began = time.perf_counter()
        try:
            found = {"result": function()}
        except Exception as error:
            found = {"error": describe_error(error)}
        self._record(name, found | {"seconds": round(time.perf_counter() - began, 2)})
        empty_cache(self.arguments.device)
        return found.get("result")

    def set_goal(self, what: str, value: float | None, goal: float, unit: str = "") -> None:
        """Record a goal, which is reached at `goal` or above; `value` None is not measured."""
        reached = None if value is None else bool(value >= goal)
        self.state["goals"].append({"what": what, "value": value, "goal": goal, "unit": unit, "reached": reached})
        self.write()

    def write(self) -> None:
        draft = self.path.with_suffix(".draft")
        draft.write_text(json.dumps(self.state, indent=1) + "\n", "utf-8")
        draft.replace(self.path)

    def _record(self, name: str, row: dict[str, Any]) -> None:
        self.state["steps"][name] = row
        print(f"{self.name}: {name}: {json.dumps(row)[:200]}", file=sys.stderr, flush=True)
        self.write()


def has_ray() -> bool:
    return importlib.util.find_spec("ray") is not None


def describe_error(error: BaseException) -> str:
    """Return one line: the exception, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}".splitlines()[0][:300] + where


def describe_device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {os.cpu_count()} cores"


def empty_cache(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_rate(function: Callable[[], Any], device: torch.device, seconds: float, units: float = 1.0) -> float:
    """Return units per second of repeated calls, after one that is not timed; at least one call."""
    function()
    synchronize(device)
    began, calls = time.perf_counter(), 0
    while calls < 1 or time.perf_counter() - began < seconds:
        function()
        calls += 1
        if calls % 8 == 0:
            synchronize(device)
    synchronize(device)
    return units * calls / (time.perf_counter() - began)


@dataclass(frozen=True, eq=False)
class Setting:
    """A network on a device with its groups and images."""

    name: str
    model: nn.Module
    structure: Structure
    splits: Splits
    device: torch.device
    recalibration_images: int

    @property
    def maps(self) -> IndexMaps:
        return self.structure.maps

    @property
    def images_per_candidate(self) -> int:
        """Images that an evaluation passes through the network."""
        return len(self.splits.val) + self.recalibration_images

    def make_evaluator(
        self, batch_size: int, precision: Any = "float32", refit: bool = False, **more: Any
    ) -> Evaluator:
        """Make an evaluator; `more` are fields of the recipe."""
        tuning = Schedule(1, 0.01, min(64, len(self.splits.train)), images=min(1280, len(self.splits.train)))
        recipe = Recipe(self.recalibration_images, batch_size, tuning, tuning, precision=precision, **more)
        refitter = None
        if refit:
            options = RefitOptions(recalibration=True, precision=precision)
            images = self.recalibration_images
            refitter = make_refitter(
                self.model, self.maps, self.splits, images=images, device=self.device, options=options
            )
        return Evaluator(self.model, self.maps, self.splits, recipe, self.device, refitter)

    def move(self, device: torch.device) -> "Setting":
        """Return a copy on another device."""
        model = copy.deepcopy(self.model).to(device)
        return Setting(self.name, model, self.structure, self.splits, device, self.recalibration_images)


def make_setting(name: str, arguments: Arguments) -> Setting:
    """Make ``resnet56`` (CIFAR-10) or ``resnet50`` (224 pixels, synthetic images); both are small nets in a dry run."""
    torch.manual_seed(0)
    if arguments.toy:
        model, splits, recalibration = build_model("cifar_resnet", {"depth": 8}), make_synthetic_splits(32, 64, 48), 32
    elif name == "resnet56":
        model, splits, recalibration = *load_resnet56(arguments), 500
    else:
        model = build_model("torchvision:resnet50", {})
        splits, recalibration = make_synthetic_splits(224, 1280, 2000, 1000), 500
    height, width, channels = splits.train.shape
    structure = trace_structure(model.eval(), (channels, height, width))
    return Setting(name, model.to(arguments.device), structure, splits, arguments.device, recalibration)


def load_resnet56(arguments: Arguments) -> tuple[nn.Module, Splits]:
    """Load the network and images of the main job; synthetic images and random weights where they are absent.

    Rates do not depend on them. All images of CIFAR-10 are needed, and the weights.
    """
    if SHARED is None or not all((SHARED / name).exists() for name in MAIN_JOB_FILES):
        return build_model("cifar_resnet", {"depth": 56}), make_synthetic_splits(32, 50_000, 2000)
    if not (arguments.work / "cifar10-test.npz").exists():
        subprocess.run([sys.executable, SHARED / "unpack.py", "cifar10", arguments.work], check=True)
    os.environ |= {"SHARED": str(SHARED), "DATA": str(arguments.work)}
    config = load_config(ROOT / "experiments/main_job/resnet56.yaml", ["data.augment=[flip, crop]"])
    from blendsearch.pipeline.problem.inputs import build_dense_network

    splits = load_splits(DataSpec(**config.data.model_dump(exclude={"split_seed"})), config.seed)
    return build_dense_network(config), splits


def make_synthetic_splits(side: int, train: int, val: int, classes: int = 10) -> Splits:
    """Make splits of random images, augmented by flips and crops."""
    rng = np.random.default_rng(0)

    def draw(count: int) -> ArraySplit:
        images = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        return ArraySplit(images, rng.integers(0, classes, count))

    mean, std = np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32)
    held = draw(val)
    return Splits(draw(train), held, held, classes, mean, std, ("flip", "crop"), "")


def draw_cuts(maps: IndexMaps, count: int, keep: float = 0.7) -> list[Cut]:
    """Draw cuts that keep `keep` of every group's channels, about half of the MACs."""
    cuts = []
    for seed in range(count):
        rng, cut = np.random.default_rng(seed), maps.make_unpruned_cut()
        for start, size in zip(maps.offsets[:-1], maps.sizes, strict=True):
            gone = rng.permutation(size)[: size - max(1, round(keep * size))]
            cut[start + gone] = False
        cuts.append(cut)
    return cuts


def make_requests(maps: IndexMaps, count: int, fidelity: str = "recalibrated") -> list[Request]:
    return [make_request(cut, fidelity, 0) for cut in draw_cuts(maps, count)]


def select_largest(rates: dict[str, float | None]) -> tuple[str, float] | None:
    """Return the name and the value of the largest rate; None if none was measured."""
    found: Sequence[tuple[str, float]] = [(name, rate) for name, rate in rates.items() if rate is not None]
    return max(found, key=lambda pair: pair[1]) if found else None
