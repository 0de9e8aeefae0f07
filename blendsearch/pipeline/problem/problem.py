"""All that a search stands on, made from a config, or made again from a run directory."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from blendsearch.blend.allocation import check_reachable, reachable
from blendsearch.blend.allocation_rules import Measured
from blendsearch.blend.clustering import Clusters, cluster_groups
from blendsearch.blend.decoder import Decoder
from blendsearch.criteria.probe import cross_entropy
from blendsearch.criteria.registry import load_criteria, pool
from blendsearch.criteria.score import score_table
from blendsearch.criteria.table import ScoreTable
from blendsearch.data.splits import Splits, batches, check_labels
from blendsearch.errors import EvaluateError
from blendsearch.fitness.device import resolve_device
from blendsearch.fitness.evaluator import Evaluator
from blendsearch.fitness.recovery import Recipe
from blendsearch.fitness.refit import Repair, repair_for
from blendsearch.pipeline.problem.base_network import input_shape, outputs_of, tells_classes, train_base
from blendsearch.pipeline.problem.costs import with_latency, with_memory
from blendsearch.pipeline.problem.from_config import (
    allowed_widths,
    fixed_widths,
    given_widths,
    schedule_of,
    space_for,
)
from blendsearch.pipeline.problem.inputs import (
    BY_NAME,
    Given,
    check_task,
    check_trains,
    network_of,
    splits_of,
)
from blendsearch.runs.config.schema import Config
from blendsearch.runs.cost_files import stored_oracle
from blendsearch.runs.records import Evaluation
from blendsearch.runs.run import Run
from blendsearch.structure.depthwise import misfit
from blendsearch.structure.depthwise_layers import with_depthwise
from blendsearch.structure.groups import unpacked
from blendsearch.structure.trace import Structure, trace
from blendsearch.task import CLASSES, Task, called, judged_by

Report = Callable[[str, Mapping[str, Any]], None]
"""Hears what happens: the kind of event, and its facts."""


@dataclass(frozen=True, eq=False)
class Setting:
    """A network, its structure and scores, the data, and what decodes and judges candidates.

    `measured`: allocations by name, where the config asks for any and the search has begun (search.measured).
    `tells_error` is false where a person's own judgement or loss tells no error, and a stand-in takes its place.
    `judged` is the loss that such a judgement gave the dense network before a new search.
    """

    config: Config
    structure: Structure
    table: ScoreTable
    clusters: Clusters
    decoder: Decoder
    evaluator: Evaluator
    tells_error: bool = True
    judged: float | None = None
    measured: Mapping[str, Measured] = field(default_factory=dict)

    @property
    def model(self) -> nn.Module:
        return self.evaluator.model

    @property
    def splits(self) -> Splits:
        return self.evaluator.splits

    def costs(self, row: Evaluation) -> tuple[float, ...]:
        """What `row` spends of each cost whose budget spans a range, as shares of the dense cost."""
        maps, oracle = self.structure.maps, self.structure.oracle
        counts = maps.counts(unpacked(row.cut, maps.channels))
        return tuple(float(oracle.ratio(name, counts)) for name in self.decoder.spanned)

    def objectives(self, row: Evaluation) -> tuple[float, ...]:
        """What is minimised, for a judged `row`: loss and error at one budget, loss and costs where budgets span.

        The paper's method (`search.cfbs`) minimises the error, and the loss only between equals.
        """
        if row.loss is None or row.error is None:
            raise ValueError(f"network {row.id} was not judged: {row.failure}")
        if self.config.method == "cfbs":
            return row.error, row.loss
        return row.loss, *(self.costs(row) or (row.error,))


def prepare(config: Config, report: Report, beside: Run | None = None, given: Given = BY_NAME) -> Setting:
    """Load, train where asked, trace and score. Writes nothing; raises a BlendsearchError for whatever does not fit.

    With `beside`, the dense network is that run's, and so is what budgets are counted by: nothing is trained, and no
    latency measured. What is `given` is not looked for under the names of the config.
    """
    check_task(config, given.task)
    traced = _traced(config, report, beside, given)
    # before anything that takes time: a budget that cannot be met ends here
    spans = config.budget.spans()
    allowed = allowed_widths(config, traced.structure)
    least = {name: spans[name][0] for name in spans if name != "latency"}
    check_reachable(traced.structure.oracle.all_decomposed, allowed, least)
    given_widths(config.budget.keep, traced.structure, allowed)
    if "latency" in spans and beside is None:
        structure, shape = traced.structure, input_shape(traced.splits)
        oracle = with_latency(traced.model.eval(), structure.maps, structure.oracle, allowed, config, shape, report)
        traced = replace(traced, structure=replace(structure, oracle=oracle))
    table, clusters = _scored(config, traced, report)
    return _setting(config, traced, table, clusters)


def score(config: Config, report: Report) -> tuple[ScoreTable, Clusters]:
    """What `prepare` finds out about the criteria, whatever the budget: the score table, and its clusters per group."""
    return _scored(config, _traced(config, report), report)


@dataclass(frozen=True, eq=False)
class _Traced:
    """A dense network on its device, what can be cut of it, and its data."""

    model: nn.Module
    structure: Structure
    splits: Splits
    device: torch.device
    trained: bool = False
    task: Task = CLASSES
    tells_error: bool = True
    judged: float | None = None


def _traced(config: Config, report: Report, beside: Run | None = None, given: Given = BY_NAME) -> _Traced:
    load_criteria(config.criteria.modules)
    pool(config.criteria.pool)  # a wrong name ends here, before data are read
    device = resolve_device(config.fitness.device)
    _use_threads(config)
    splits = splits_of(config, given)
    model = network_of(config, None if beside is None else beside.arrays("dense"), given)
    structure = _structure(config, model, splits)
    task = replace(given.task, classes=splits.classes > 0)
    if task.evaluate is None and task.loss is None:
        check_labels(splits, outputs_of(model, splits))
    elif task.classes and task.loss is None:
        task = replace(task, classes=tells_classes(model, splits))
    if beside is not None:
        structure = replace(structure, oracle=stored_oracle(beside, structure))
    elif "memory" in config.budget.spans():
        structure = replace(structure, oracle=with_memory(model, structure, input_shape(splits)))
    least = reachable(structure.oracle.all_decomposed, allowed_widths(config, structure))
    report("traced", {"groups": len(structure.maps.groups), "frozen": len(structure.frozen), "reachable": least})
    check_trains(config, task)
    told, first = task.loss is None, None
    if task.evaluate is not None:
        # here, so that what is wrong with it ends nothing that took long, and shows where it comes from
        judged = judged_by(task.evaluate, model.to(device), config.seed)
        if not np.isfinite(judged.loss):
            raise EvaluateError(
                f"{called(task.evaluate)} gave a loss of {judged.loss} for the dense network: expected a number"
            )
        told, first = judged.told, judged.loss
        report("judged", {"by": called(task.evaluate), "loss": judged.loss, **judged.further})
    return _Traced(model.to(device), structure, splits, device, beside is not None, task, told, first)


def _scored(config: Config, traced: _Traced, report: Report) -> tuple[ScoreTable, Clusters]:
    """Train the network where it has no weights, then score and cluster."""
    model, splits, device = traced.model, traced.splits, traced.device
    if config.model.weights is None and config.model.train is not None and not traced.trained:
        train_base(model, splits, config.model.train, config.fitness.precision, device, config.seed, report)
    rng = np.random.default_rng([config.seed, 1])
    asked = config.criteria

    def calibration() -> Any:
        return batches(
            splits.train,
            batch_size=min(asked.images, 64),
            mean=splits.mean,
            std=splits.std,
            device=device,
            rng=rng,
            augment=asked.augment,
            limit=asked.images,
        )

    chosen = pool(asked.pool)
    loss = traced.task.summed_loss if traced.task.loss is not None else cross_entropy if traced.task.classes else None
    table = score_table(model, traced.structure, chosen, calibration, rng.spawn(1)[0], asked.temperature, loss)
    report("scored", {"criteria": list(table.criteria), "left_out": [asdict(item) for item in table.left_out]})
    return table, cluster_groups(table, asked.clustering, asked.clusters, config.seed)


def _setting(config: Config, traced: _Traced, table: ScoreTable, clusters: Clusters) -> Setting:
    structure, model = traced.structure, traced.model
    allowed = allowed_widths(config, structure)
    decoder = Decoder(
        replace(space_for(config, table, clusters), layers=len(structure.maps.layers)),
        table,
        structure.oracle,
        allowed,
        config.budget.spans(),
        fixed_widths(config, structure, allowed, table),
        misfit=np.array([misfit(model.get_parameter(f"{name}.weight")) for name in structure.maps.layers]),
    )
    fitness = config.fitness
    recipe = Recipe(
        fitness.recalibration_images,
        fitness.batch_size,
        schedule_of(fitness.tuning),
        schedule_of(config.finals.tuning),
        config.finals.distillation,
        fitness.precision,
        traced.task,
    )
    model.eval()
    repair = _repair(config, structure, model, traced.splits, traced.device)
    evaluator = Evaluator(model, structure.maps, traced.splits, recipe, traced.device, repair, fitness.against)
    return Setting(config, structure, table, clusters, decoder, evaluator, traced.tells_error, traced.judged)


def _structure(config: Config, model: nn.Module, splits: Splits) -> Structure:
    """The structure of `model`, on the CPU, with the layers that may be decomposed where the config asks for it."""
    structure = trace(model, input_shape(splits))
    return structure if config.transform == "none" else with_depthwise(model, structure, input_shape(splits))


def _repair(
    config: Config, structure: Structure, model: nn.Module, splits: Splits, device: torch.device
) -> Repair | None:
    """What every cut is repaired with; its targets are worked out anew where a run is restored.

    Without `fitness.repair` only what a cut decomposes is fitted, and nothing where no transform is asked for.
    """
    fitness = config.fitness
    if fitness.repair == "none" and not structure.maps.layers:
        return None
    return repair_for(
        model,
        structure.maps,
        splits,
        images=fitness.recalibration_images,
        device=device,
        renewed=fitness.fidelity != "raw",
        refit=fitness.repair != "none",
        precision=fitness.precision,
    )


def _use_threads(config: Config) -> None:
    if config.engine.threads is not None:
        torch.set_num_threads(config.engine.threads)
