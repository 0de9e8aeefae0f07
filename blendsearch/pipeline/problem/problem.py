"""All that a search stands on, made from a config, or made again from a run directory."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from blendsearch.blend.allocation import check_reachable, compute_min_ratios
from blendsearch.blend.allocation_rules import PreparedAllocation
from blendsearch.blend.clustering import Clusters, cluster_groups
from blendsearch.blend.decoder import Decoder
from blendsearch.criteria.probe import cross_entropy
from blendsearch.criteria.registry import load_criteria, select_criteria
from blendsearch.criteria.score import compute_score_table
from blendsearch.criteria.table import ScoreTable
from blendsearch.data.splits import Splits, check_labels
from blendsearch.errors import EvaluateError
from blendsearch.fitness.device import resolve_device
from blendsearch.fitness.evaluator import Evaluator
from blendsearch.fitness.recovery import Recipe
from blendsearch.fitness.refit import RefitOptions, Refitter, make_refitter
from blendsearch.pipeline.problem.base_network import count_outputs, get_input_shape, is_classifier, train_base
from blendsearch.pipeline.problem.costs import (
    add_latency_cost,
    add_memory_cost,
)
from blendsearch.pipeline.problem.from_config import (
    compute_allowed_widths,
    make_fixed_widths,
    make_schedule,
    make_space,
    resolve_user_widths,
)
from blendsearch.pipeline.problem.inputs import (
    NO_USER_INPUTS,
    UserInputs,
    build_dense_network,
    build_splits,
    check_task,
    check_trainable,
)
from blendsearch.runs.config.schema import Config
from blendsearch.runs.cost_files import load_oracle
from blendsearch.runs.records import Evaluation
from blendsearch.runs.run import Run
from blendsearch.structure.depthwise import compute_misfit
from blendsearch.structure.depthwise_layers import add_decomposable_layers
from blendsearch.structure.groups import unpack_cut
from blendsearch.structure.trace import Structure, trace_structure
from blendsearch.task import CLASSIFICATION, Task, get_function_name, run_user_evaluation

Reporter = Callable[[str, Mapping[str, Any]], None]
"""Hears what happens: the kind of event, and its facts."""


@dataclass(frozen=True, eq=False)
class Problem:
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
    has_error: bool = True
    dense_loss: float | None = None
    allocations: Mapping[str, PreparedAllocation] = field(default_factory=dict)

    @property
    def model(self) -> nn.Module:
        return self.evaluator.model

    @property
    def splits(self) -> Splits:
        return self.evaluator.splits

    def compute_costs(self, row: Evaluation) -> tuple[float, ...]:
        """What `row` spends of each cost whose budget spans a range, as shares of the dense cost."""
        maps, oracle = self.structure.maps, self.structure.oracle
        counts = maps.count_kept(unpack_cut(row.cut, maps.channels))
        return tuple(float(oracle.compute_ratio(name, counts)) for name in self.decoder.ranged_costs)

    def compute_objectives(self, row: Evaluation) -> tuple[float, ...]:
        """What is minimised, for a judged `row`: loss and error at one budget, loss and costs where budgets span.

        The paper's method (`search.cfbs`) minimises the error, and the loss only between equals.
        """
        if row.loss is None or row.error is None:
            raise ValueError(f"network {row.id} was not judged: {row.failure}")
        if self.config.method == "cfbs":
            return row.error, row.loss
        return row.loss, *(self.compute_costs(row) or (row.error,))


def prepare(
    config: Config, report: Reporter, base_run: Run | None = None, inputs: UserInputs = NO_USER_INPUTS
) -> Problem:
    """Load, train where asked, trace and score. Writes nothing; raises a BlendsearchError for whatever does not fit.

    With `beside`, the dense network is that run's, and so is what budgets are counted by: nothing is trained, and no
    latency measured. What is `given` is not looked for under the names of the config.
    """
    check_task(config, inputs.task)
    traced = _trace_network(config, report, base_run, inputs)
    # before anything that takes time: a budget that cannot be met ends here
    spans = config.budget.get_spans()
    allowed = compute_allowed_widths(config, traced.structure)
    least = {name: spans[name][0] for name in spans if name != "latency"}
    check_reachable(traced.structure.oracle.all_decomposed, allowed, least)
    resolve_user_widths(config.budget.keep, traced.structure, allowed)
    if "latency" in spans and base_run is None:
        structure, shape = traced.structure, get_input_shape(traced.splits)
        oracle = add_latency_cost(traced.model.eval(), structure.maps, structure.oracle, allowed, config, shape, report)
        traced = replace(traced, structure=replace(structure, oracle=oracle))
    table, clusters = _score_criteria(config, traced, report)
    return _build_problem(config, traced, table, clusters)


def score(config: Config, report: Reporter) -> tuple[ScoreTable, Clusters]:
    """What `prepare` finds out about the criteria, whatever the budget: the score table, and its clusters per group."""
    return _score_criteria(config, _trace_network(config, report), report)


@dataclass(frozen=True, eq=False)
class _TracedNetwork:
    """A dense network on its device, what can be cut of it, and its data."""

    model: nn.Module
    structure: Structure
    splits: Splits
    device: torch.device
    trained: bool = False
    task: Task = CLASSIFICATION
    has_error: bool = True
    dense_loss: float | None = None


def _trace_network(
    config: Config, report: Reporter, base_run: Run | None = None, inputs: UserInputs = NO_USER_INPUTS
) -> _TracedNetwork:
    load_criteria(config.criteria.modules)
    select_criteria(config.criteria.pool)  # a wrong name ends here, before data are read
    device = resolve_device(config.fitness.device)
    _use_threads(config)
    splits = build_splits(config, inputs)
    model = build_dense_network(config, None if base_run is None else base_run.read_arrays("dense"), inputs)
    structure = _trace_structure(config, model, splits)
    task = replace(inputs.task, has_class_labels=splits.classes > 0)
    if task.evaluate is None and task.loss is None:
        check_labels(splits, count_outputs(model, splits))
    elif task.has_class_labels and task.loss is None:
        task = replace(task, has_class_labels=is_classifier(model, splits))
    if base_run is not None:
        structure = replace(structure, oracle=load_oracle(base_run, structure))
    elif "memory" in config.budget.get_spans():
        structure = replace(structure, oracle=add_memory_cost(model, structure, get_input_shape(splits)))
    least = compute_min_ratios(structure.oracle.all_decomposed, compute_allowed_widths(config, structure))
    report("traced", {"groups": len(structure.maps.groups), "frozen": len(structure.frozen), "reachable": least})
    check_trainable(config, task)
    told, first = task.loss is None, None
    if task.evaluate is not None:
        # here, so that what is wrong with it ends nothing that took long, and shows where it comes from
        dense_result = run_user_evaluation(task.evaluate, model.to(device), config.seed)
        if not np.isfinite(dense_result.loss):
            raise EvaluateError(
                f"{get_function_name(task.evaluate)} gave a loss of {dense_result.loss} for the dense network: "
                "expected a number"
            )
        told, first = dense_result.has_error, dense_result.loss
        report(
            "judged", {"by": get_function_name(task.evaluate), "loss": dense_result.loss, **dense_result.extra_metrics}
        )
    return _TracedNetwork(model.to(device), structure, splits, device, base_run is not None, task, told, first)


def _score_criteria(config: Config, traced: _TracedNetwork, report: Reporter) -> tuple[ScoreTable, Clusters]:
    """Train the network where it has no weights, then score and cluster."""
    model, splits, device = traced.model, traced.splits, traced.device
    if config.model.weights is None and config.model.train is not None and not traced.trained:
        train_base(model, splits, config.model.train, config.fitness.precision, device, config.seed, report)
    rng = np.random.default_rng([config.seed, 1])
    asked = config.criteria

    def make_batches() -> Any:
        return splits.iter_batches(
            splits.train,
            batch_size=min(asked.images, 64),
            device=device,
            rng=rng,
            augment=asked.augment,
            limit=asked.images,
        )

    chosen = select_criteria(asked.pool)
    loss = (
        traced.task.compute_summed_loss
        if traced.task.loss is not None
        else cross_entropy
        if traced.task.has_class_labels
        else None
    )
    table = compute_score_table(model, traced.structure, chosen, make_batches, rng.spawn(1)[0], asked.temperature, loss)
    report("scored", {"criteria": list(table.criteria), "left_out": [asdict(item) for item in table.left_out]})
    return table, cluster_groups(table, asked.clustering, asked.clusters, config.seed)


def _build_problem(config: Config, traced: _TracedNetwork, table: ScoreTable, clusters: Clusters) -> Problem:
    structure, model = traced.structure, traced.model
    allowed = compute_allowed_widths(config, structure)
    decoder = Decoder(
        replace(make_space(config, table, clusters), layers=len(structure.maps.layers)),
        table,
        structure.oracle,
        allowed,
        config.budget.get_spans(),
        make_fixed_widths(config, structure, allowed, table),
        misfit=np.array([compute_misfit(model.get_parameter(f"{name}.weight")) for name in structure.maps.layers]),
    )
    fitness = config.fitness
    recipe = Recipe(
        fitness.recalibration_images,
        fitness.batch_size,
        make_schedule(fitness.tuning),
        make_schedule(config.finals.tuning),
        config.finals.distillation,
        fitness.precision,
        traced.task,
    )
    model.eval()
    repair = _make_refitter(config, structure, model, traced.splits, traced.device)
    evaluator = Evaluator(model, structure.maps, traced.splits, recipe, traced.device, repair, fitness.against)
    return Problem(config, structure, table, clusters, decoder, evaluator, traced.has_error, traced.dense_loss)


def _trace_structure(config: Config, model: nn.Module, splits: Splits) -> Structure:
    """The structure of `model`, on the CPU, with the layers that may be decomposed where the config asks for it."""
    structure = trace_structure(model, get_input_shape(splits))
    return (
        structure if config.transform == "none" else add_decomposable_layers(model, structure, get_input_shape(splits))
    )


def _make_refitter(
    config: Config, structure: Structure, model: nn.Module, splits: Splits, device: torch.device
) -> Refitter | None:
    """What every cut is repaired with; its targets are worked out anew where a run is restored.

    Without `fitness.repair` only what a cut decomposes is fitted, and nothing where no transform is asked for.
    """
    fitness = config.fitness
    if fitness.repair == "none" and not structure.maps.layers:
        return None
    return make_refitter(
        model,
        structure.maps,
        splits,
        images=fitness.recalibration_images,
        device=device,
        options=RefitOptions(
            recalibration=fitness.fidelity != "raw",
            precision=fitness.precision,
            all_layers=fitness.repair != "none",
        ),
    )


def _use_threads(config: Config) -> None:
    if config.engine.threads is not None:
        torch.set_num_threads(config.engine.threads)
