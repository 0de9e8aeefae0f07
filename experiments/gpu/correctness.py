"""Compare every path on the device with the same path on the CPU.

    python experiments/gpu/correctness.py [--device cpu --toy]

Criteria, surgery, recalibration, refit, loss against the dense network, training, distillation, elastic tune,
checkpoints, depthwise layers and latency. TensorFloat-32 is off, so that the difference is that of the order of sums.
"""

import copy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from harness import Arguments, Part, Setting, draw_cuts, make_setting, run_as_script
from scipy.stats import spearmanr

from blendsearch.criteria.registry import select_criteria
from blendsearch.criteria.score import compute_score_table
from blendsearch.criteria.table import ScoreTable
from blendsearch.fitness.evaluator import Evaluator, make_request
from blendsearch.fitness.latency_benchmark import BenchmarkSettings, measure_latencies
from blendsearch.structure.depthwise_layers import add_decomposable_layers
from blendsearch.structure.surgery import narrow
from blendsearch.training.elastic import SubNetworks, tune_elastic
from blendsearch.training.schedule import Schedule
from blendsearch.training.teacher import LiveTeacher
from blendsearch.training.trainer import train
from blendsearch.training.training_options import CheckpointOptions, TrainingOptions
from blendsearch.training.training_store import FolderStore

CPU = torch.device("cpu")
TOLERANCE = 0.01
"""Largest relative difference of losses; a fine-tune amplifies rounding."""
RANK_CORRELATION = 0.999
"""Least correlation of a criterion's ranks; criteria that draw random numbers on the device are compared as well."""
NAME = "correctness"


def measure(part: Part) -> None:
    """Run all comparisons; the goal is that all agree."""
    part.state["goals"].clear()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    here = _shrink(make_setting("resnet56", part.arguments), part.arguments)
    there = here.move(CPU)
    checks: dict[str, Any] = {
        "surgery": lambda: compare_surgery(here, there),
        "criteria": lambda: compare_criteria(here, there),
        "recalibrated": lambda: compare_losses(here, there, "recalibrated"),
        "refit": lambda: compare_losses(here, there, "recalibrated", refit=True),
        "against the dense network": lambda: compare_losses(here, there, "recalibrated", against="dense"),
        "training": lambda: compare_losses(here, there, "tuned"),
        "live teacher": lambda: compare_losses(here, there, "tuned", tuning_distillation=0.5),
        "stored teacher": lambda: compare_losses(here, there, "tuned", tuning_distillation=0.5, views=2),
        "elastic": lambda: compare_elastic(here, there),
        "continued training": lambda: compare_continued(here, part.arguments),
        "depthwise layers": lambda: compare_depthwise(part.arguments),
        "latency": lambda: check_latency(here),
        "bfloat16": lambda: compare_precision(here, "bfloat16"),
        "float16": lambda: compare_precision(here, "float16"),
    }
    results = [part.step(name, check) for name, check in checks.items()]
    done = [bool(found["agrees"]) for found in results if found is not None]
    part.set_goal("paths that agree with the CPU", sum(done) if done else None, len(checks))
    torch.backends.cudnn.allow_tf32 = True


def _shrink(setting: Setting, arguments: Arguments) -> Setting:
    """Use few images: the CPU has to keep up."""
    if arguments.toy:
        return setting
    from blendsearch.data.splits import Subset

    train, val = Subset(setting.splits.train, np.arange(640)), Subset(setting.splits.val, np.arange(400))
    return replace(setting, splits=replace(setting.splits, train=train, val=val, test=val), recalibration_images=200)


def _agree(one: float, other: float, tolerance: float = TOLERANCE) -> dict[str, Any]:
    difference = abs(one - other) / max(abs(other), 1e-9)
    return {"device": one, "cpu": other, "difference": difference, "agrees": bool(difference <= tolerance)}


def compare_surgery(here: Setting, there: Setting) -> dict[str, Any]:
    """Compare every tensor of a pruned network; they are copies, so they are equal."""
    (cut,) = draw_cuts(here.maps, 1)
    one, other = narrow(here.model, here.maps, cut).state_dict(), narrow(there.model, there.maps, cut).state_dict()
    unequal = [name for name, tensor in one.items() if not torch.equal(tensor.cpu(), other[name])]
    moved = [name for name, tensor in one.items() if tensor.device.type != here.device.type]
    return {"tensors": len(one), "unequal": unequal, "moved": moved, "agrees": not unequal and not moved}


def compare_criteria(here: Setting, there: Setting) -> dict[str, Any]:
    """Compare the ranks of all criteria, group by group; the median over groups must agree."""
    one, other = score(here), score(there)
    left_out = [(item.criterion, item.group) for item in one.left_out]
    correlations = {
        name: float(np.median([_correlate(a[row], b[row]) for a, b in zip(one.scores, other.scores, strict=True)]))
        for row, name in enumerate(one.criteria)
    }
    low = {name: value for name, value in correlations.items() if value < RANK_CORRELATION}
    same = left_out == [(item.criterion, item.group) for item in other.left_out]
    return {"criteria": len(correlations), "low": low, "same_left_out": same, "agrees": same and not low}


def score(setting: Setting) -> ScoreTable:
    """Score all channels by all criteria on a few training images."""
    splits, device, count = setting.splits, setting.device, min(64, len(setting.splits.train))
    batches = list(splits.iter_batches(splits.train, batch_size=32, device=device, limit=count))
    pool = select_criteria()
    return compute_score_table(setting.model, setting.structure, pool, lambda: batches, np.random.default_rng(0))


def _correlate(one: np.ndarray, other: np.ndarray) -> float:
    if not np.isfinite(one).all() or np.allclose(one, other, rtol=1e-4):
        return 1.0
    return float(spearmanr(one, other).statistic)


def compare_losses(
    here: Setting, there: Setting, fidelity: str, *, refit: bool = False, against: Any = "labels", **recipe: Any
) -> dict[str, Any]:
    """Compare the loss of one cut at a fidelity."""
    losses = [evaluate(_make(setting, refit, against, recipe), fidelity) for setting in (here, there)]
    return _agree(losses[0], losses[1], TOLERANCE if fidelity != "tuned" else 5 * TOLERANCE)


def _make(setting: Setting, refit: bool, against: Any, recipe: dict[str, Any]) -> Evaluator:
    return replace(setting.make_evaluator(50, refit=refit, **recipe), loss_target=against)


def evaluate(evaluator: Evaluator, fidelity: str) -> float:
    """Return the loss of the first drawn cut."""
    outcome = evaluator.evaluate(make_request(draw_cuts(evaluator.maps, 1)[0], fidelity, 0))
    assert not outcome.failure, outcome.failure
    return outcome.loss


def compare_elastic(here: Setting, there: Setting) -> dict[str, Any]:
    """Compare the loss of a candidate that is sliced out of a network after a short elastic tune."""
    losses = []
    for setting in (here, there):
        tuned = copy.deepcopy(setting.model)
        schedule = Schedule(1, 0.01, 32, images=min(320, len(setting.splits.train)))
        subs = SubNetworks(setting.maps, lambda step, maps=setting.maps: [draw_cuts(maps, step + 1)[step]])
        options = TrainingOptions(teacher=LiveTeacher(setting.model.eval(), 0.5))
        tune_elastic(tuned, subs, setting.splits, schedule, setting.device, np.random.default_rng(0), options)
        losses.append(evaluate(replace(setting.make_evaluator(50), tuned=tuned), "recalibrated"))
    return _agree(losses[0], losses[1], 5 * TOLERANCE)


def compare_continued(setting: Setting, arguments: Arguments) -> dict[str, Any]:
    """Compare a training that stops halfway and continues with two that do not, on the device.

    `identical` is bit for bit. If `repeatable` is False, the device's kernels are not deterministic.
    """
    once, again = (train_in_parts(setting, arguments, (1.0,)) for _ in range(2))
    parts = train_in_parts(setting, arguments, (0.5, 1.0))
    difference = max(float((once[name] - parts[name]).abs().max()) for name in once)
    identical, repeatable = (all(torch.equal(once[name], other[name]) for name in once) for other in (parts, again))
    agrees = identical or (not repeatable and difference < TOLERANCE)
    return {"identical": identical, "repeatable": repeatable, "difference": difference, "agrees": agrees}


def train_in_parts(setting: Setting, arguments: Arguments, stops: tuple[float, ...]) -> dict[str, torch.Tensor]:
    """Train a pruned network, which is made anew at every stop; return its tensors on the CPU."""
    (cut,) = draw_cuts(setting.maps, 1)
    schedule = Schedule(1, 0.01, 32, images=min(320, len(setting.splits.train)), ema=0.9, clip_norm=1.0)
    with TemporaryDirectory(dir=arguments.work) as folder:
        checkpoints = CheckpointOptions(FolderStore(Path(folder)), "key", 1e9, keep=True)
        for stop in stops:
            module = narrow(setting.model, setting.maps, cut)
            options = TrainingOptions(checkpoints=checkpoints, stop=stop)
            train(module, setting.splits, schedule, setting.device, np.random.default_rng(0), options)
    return {name: tensor.detach().cpu().float() for name, tensor in module.state_dict().items()}


def compare_depthwise(arguments: Arguments) -> dict[str, Any]:
    """Compare the loss of a network whose layers are all decomposed and refitted as pairs."""
    plain = _shrink(make_setting("resnet56", arguments), arguments).move(CPU)
    height, width, channels = plain.splits.train.shape
    structure = add_decomposable_layers(plain.model, plain.structure, (channels, height, width))
    losses = []
    for device in (arguments.device, CPU):
        setting = replace(plain, structure=structure).move(device)
        cut = setting.maps.make_unpruned_cut()
        cut[setting.maps.offsets[-1] :] = False
        held = setting.make_evaluator(50, refit=True)
        outcome = held.evaluate(make_request(cut, "recalibrated", 0))
        assert not outcome.failure, outcome.failure
        losses.append(outcome.loss)
    return _agree(*losses, tolerance=5 * TOLERANCE)


def check_latency(setting: Setting) -> dict[str, Any]:
    """Measure latencies of two cuts; they must be finite, and above zero."""
    height, width, channels = setting.splits.train.shape
    conditions = BenchmarkSettings((channels, height, width), 4, "float32", 5)
    seconds = measure_latencies(setting.model, setting.maps, draw_cuts(setting.maps, 2), conditions)
    return {"seconds": seconds.tolist(), "agrees": bool(np.isfinite(seconds).all() and (seconds > 0).all())}


def compare_precision(setting: Setting, precision: Any) -> dict[str, Any]:
    """Compare a fine-tune in half precision with float32, on the device: within a tenth, and finite."""
    half = evaluate(setting.make_evaluator(50, precision), "tuned")
    full = evaluate(setting.make_evaluator(50), "tuned")
    found = _agree(half, full, 0.1)
    return {precision if key == "device" else "float32" if key == "cpu" else key: value for key, value in found.items()}


if __name__ == "__main__":
    run_as_script(__doc__, NAME, measure)
