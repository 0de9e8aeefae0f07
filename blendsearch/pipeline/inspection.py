"""A look at a search before it starts: what can be cut, what a budget can reach, and how long it will take."""

import copy
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypedDict

import numpy as np
from torch import nn

from blendsearch.blend.allocation import compute_min_ratios
from blendsearch.events import Reporter
from blendsearch.fitness.evaluator import Evaluator, make_request
from blendsearch.fitness.runtimes import measure_in_runtimes
from blendsearch.pipeline.problem.assembly import TracedNetwork, make_evaluator
from blendsearch.pipeline.problem.builder import trace_config
from blendsearch.pipeline.problem.costs import make_conditions
from blendsearch.pipeline.problem.from_config import compute_allowed_widths, make_schedule
from blendsearch.pipeline.problem.inputs import NO_USER_INPUTS, UserInputs, resolve_finals
from blendsearch.runs.config.schema import Config
from blendsearch.runs.run import Run
from blendsearch.structure.groups import Cut
from blendsearch.training.schedule import Schedule
from blendsearch.training.trainer import train
from blendsearch.training.training_options import TrainingOptions

KEPT_SHARE = 0.7
"""Share of its channels that every group keeps in the network that is timed."""

TIMED_STEPS = 2


class LatencyComparison(TypedDict):
    """Milliseconds of one pass of the dense and of a pruned network, and the pruned one's shares of time and MACs."""

    dense_ms: float
    pruned_ms: float
    ratio: float
    macs_ratio: float


@dataclass(frozen=True)
class Inspection:
    """What a search will do.

    Attributes
    ----------
    groups: name and channels of each group; unpruned: name, channels and reason of what cannot be cut.
    dense: costs of the dense network; reachable: the least ratio of each cost; None where it is not known.
    evaluations: networks that the search evaluates; workers: how many at a time, where it is known.
    evaluation_seconds: of one evaluation of a pruned network on this machine.
    final_seconds: of the long fine-tune of one network; None where networks are not fine-tuned, or by user code.
    base_seconds: of the training of the dense network; 0 where it has weights.
    finals: networks that are chosen for the long fine-tune. The best controls are fine-tuned too.
    latency: one pass of the dense network and of one that is cut everywhere, by runtime; empty where not measured.
    """

    model: str
    data: str
    groups: tuple[dict[str, Any], ...]
    unpruned: tuple[dict[str, Any], ...]
    dense: dict[str, int]
    reachable: dict[str, float] | None
    budget: dict[str, tuple[float, float]]
    evaluations: int
    workers: int
    evaluation_seconds: float | None
    final_seconds: float | None
    base_seconds: float
    finals: int
    latency: dict[str, LatencyComparison] = field(default_factory=dict)

    @property
    def search_seconds(self) -> float | None:
        """Seconds of all evaluations."""
        return None if self.evaluation_seconds is None else self.evaluations * self.evaluation_seconds / self.workers

    @property
    def total_seconds(self) -> float | None:
        """Seconds of the base training, the evaluations and the chosen finals."""
        if self.search_seconds is None or (self.finals and self.final_seconds is None):
            return None
        return self.base_seconds + self.search_seconds + self.finals * (self.final_seconds or 0.0) / self.workers

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "search_seconds": self.search_seconds, "total_seconds": self.total_seconds}


def inspect_config(config: Config, report: Reporter, inputs: UserInputs = NO_USER_INPUTS) -> Inspection:
    """Trace the network of `config` and time one evaluation and a few training steps; nothing is written.

    Raises a BlendsearchError for input that does not fit. A budget out of reach is no error here.
    """
    traced = trace_config(config, report, inputs)
    structure = traced.structure
    config = resolve_finals(config, traced.task, traced.hooks)
    evaluator = make_evaluator(config, traced)
    is_trained = config.model.train is None or (config.model.weights is not None and not config.model.brings_weights)
    tuned, base = make_schedule(config.finals.tuning), config.model.train
    by_user = traced.hooks.train_fn is not None
    finals = config.finals.count_picks() * config.finals.seeds
    return Inspection(
        config.model.title,
        traced.splits.note,
        tuple({"name": group.name, "channels": group.channels} for group in structure.maps.groups),
        tuple(asdict(item) for item in structure.frozen),
        dict(structure.oracle.dense),
        compute_min_ratios(structure.oracle.all_decomposed, compute_allowed_widths(config, structure)),
        config.budget.get_spans(),
        config.search.evaluations,
        config.engine.workers or 1,
        _time_evaluation(config, traced, evaluator),
        _time_training(traced, tuned) if finals and not by_user else None,
        0.0 if is_trained or base is None else _time_training(traced, make_schedule(base)) or 0.0,
        finals,
        _measure_latency(config, traced),
    )


def inspect_run(run: Run) -> Inspection:
    """Describe a run by what it stores: nothing is built, and times are those of its evaluations."""
    with run.open_store(read_only=True) as store:
        rows, finals = store.read_bare_evaluations(-1, cuts=False), store.read_finals()
    config, structure = run.config, run.structure
    return Inspection(
        config.model.title,
        structure["splits"],
        tuple(dict(group) for group in structure["groups"]),
        tuple(dict(item) for item in structure["frozen"]),
        dict(structure["dense"]),
        None,
        config.budget.get_spans(),
        config.search.evaluations,
        config.engine.workers or 1,
        _compute_mean([row.seconds for row in rows[1:] if not row.failure]),
        _compute_mean([item.seconds for item in finals]),
        0.0,
        config.finals.count_picks() * config.finals.seeds,
    )


def _compute_mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _time_evaluation(config: Config, traced: TracedNetwork, evaluator: Evaluator) -> float:
    """Return the seconds of one evaluation at the config's fidelity, of a network that is cut everywhere."""
    cut = _cut_everywhere(config, traced)
    evaluator.warm_up_evaluation()
    return evaluator.evaluate(make_request(cut, config.fitness.fidelity, config.seed)).seconds


def _measure_latency(config: Config, traced: TracedNetwork) -> dict[str, LatencyComparison]:
    """Measure the network that is cut everywhere beside the dense one; empty for networks that take no images."""
    structure, cut = traced.structure, _cut_everywhere(config, traced)
    macs_ratio = float(structure.oracle.compute_ratio("macs", structure.maps.count_kept(cut)))
    try:
        height, width, channels = traced.splits.train.shape
        conditions = make_conditions(config.budget, (channels, height, width))
        times = measure_in_runtimes(traced.model.eval(), structure.maps, cut, conditions)
    except Exception:  # a network may need other inputs than images, and this figure is optional
        return {}
    return {
        name: LatencyComparison(
            dense_ms=1e3 * item.dense, pruned_ms=1e3 * item.pruned, ratio=item.ratio, macs_ratio=macs_ratio
        )
        for name, item in times.items()
    }


def _cut_everywhere(config: Config, traced: TracedNetwork) -> Cut:
    """Cut every group to about `KEPT_SHARE` of its channels."""
    maps = traced.structure.maps
    counts = compute_allowed_widths(config, traced.structure).round(
        np.asarray(KEPT_SHARE * maps.sizes, dtype=np.float64)
    )
    parts = [np.arange(group.channels) < count for group, count in zip(maps.groups, counts, strict=True)]
    return np.concatenate([*parts, np.ones(len(maps.layers), dtype=np.bool_)])


def _time_training(traced: TracedNetwork, schedule: Schedule) -> float | None:
    """Return the seconds of a training of the dense network by `schedule`, from a few steps; None without a loss."""
    if not traced.task.is_trainable:
        return None
    total = min(len(traced.splits.train), schedule.images or len(traced.splits.train))
    images = min(TIMED_STEPS * schedule.batch_size, total)
    short = replace(schedule, epochs=1.0, images=images, rate=1e-9, warmup=0.0)
    seconds = [_time_steps(traced, copy.deepcopy(traced.model), short) for _ in range(2)]
    return min(seconds) / images * total * schedule.epochs


def _time_steps(traced: TracedNetwork, model: nn.Module, schedule: Schedule) -> float:
    start = time.perf_counter()
    options = TrainingOptions(task=traced.task)
    train(model, traced.splits, schedule, traced.device, np.random.default_rng(0), options)
    return time.perf_counter() - start
