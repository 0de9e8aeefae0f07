"""Build a problem from a config: load, train where asked, trace, score and cluster."""

import copy
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from torch import nn

from blendsearch.background import call_in_background
from blendsearch.blend.allocation import check_reachable, compute_min_ratios
from blendsearch.blend.clustering import Clusters, cluster_groups, import_scikit_learn
from blendsearch.blend.correlation_map import cluster_network
from blendsearch.criteria.probe import cross_entropy
from blendsearch.criteria.registry import load_criteria, select_criteria
from blendsearch.criteria.score import compute_score_table
from blendsearch.criteria.table import ScoreTable
from blendsearch.data.splits import check_labels, list_gaps
from blendsearch.errors import BudgetError, EvaluateError
from blendsearch.events import MetricChecked, Reporter, Scored, Traced, Warned
from blendsearch.pipeline.problem.assembly import TracedNetwork, assemble_problem, set_threads, trace_network
from blendsearch.pipeline.problem.base_network import (
    count_outputs,
    get_input_shape,
    is_classifier,
    resolve_precision,
    scores_classes,
    train_base,
)
from blendsearch.pipeline.problem.costs import add_latency_cost, add_memory_cost
from blendsearch.pipeline.problem.from_config import compute_allowed_widths, resolve_user_widths
from blendsearch.pipeline.problem.inputs import (
    NO_USER_INPUTS,
    UserInputs,
    build_dense_network,
    build_splits,
    check_task,
    check_trainable,
    load_hooks,
    resolve_finals,
)
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.pipeline.problem.tasks import load_task
from blendsearch.runs.compatibility import hash_own_code
from blendsearch.runs.config.checks import check_searchable
from blendsearch.runs.config.schema import Config
from blendsearch.runs.cost_files import load_oracle
from blendsearch.runs.run import Run
from blendsearch.structure.unpruned import describe_undecided, describe_unpruned, describe_unreached
from blendsearch.task import EvaluateFunction, Task, get_function_name, run_user_evaluation
from blendsearch.training.device import resolve_device
from blendsearch.training.training_store import NO_STORE, TrainingStore


def build_problem(
    config: Config,
    report: Reporter,
    base_run: Run | None = None,
    inputs: UserInputs = NO_USER_INPUTS,
    checkpoints: TrainingStore = NO_STORE,
) -> Problem:
    """Build the problem of a new search. Raises a BlendsearchError for input that does not fit.

    With `base_run`, the dense network and the cost models are those of that run: nothing is trained or measured.
    Objects in `inputs` replace what the config names. Only the training of the dense network writes: its state, to
    `checkpoints`.
    """
    check_searchable(config)
    inputs = replace(inputs, task=load_task(config, inputs.task))
    check_task(config, inputs.task)
    traced = _trace_dense(config, report, base_run, inputs)
    _check_budget(config, traced)
    if "latency" in config.budget.get_spans() and base_run is None:
        traced = _add_latency(config, traced, report)
    config = resolve_finals(config, traced.task, traced.hooks)
    config = resolve_precision(config, traced.model, traced.splits, traced.device, report)
    table, clusters = _score_criteria(config, traced, report, checkpoints)
    return assemble_problem(config, traced, table, clusters)


def trace_config(config: Config, report: Reporter, inputs: UserInputs = NO_USER_INPUTS) -> TracedNetwork:
    """Load and trace what `config` names, and check all that needs neither training nor scoring."""
    check_searchable(config)
    inputs = replace(inputs, task=load_task(config, inputs.task))
    check_task(config, inputs.task)
    return _trace_dense(config, report, inputs=inputs)


def score_config(config: Config, report: Reporter) -> tuple[ScoreTable, Clusters]:
    """Compute the score table and the clusters of the criteria, whatever the budget."""
    inputs = replace(NO_USER_INPUTS, task=load_task(config, NO_USER_INPUTS.task))
    return _score_criteria(config, _trace_dense(config, report, inputs=inputs), report)


def _check_budget(config: Config, traced: TracedNetwork) -> None:
    """Raise BudgetError for a budget out of reach, before anything slow."""
    spans, allowed = config.budget.get_spans(), compute_allowed_widths(config, traced.structure)
    least = {name: spans[name][0] for name in spans if name != "latency"}
    try:
        check_reachable(traced.structure.oracle.all_decomposed, allowed, least)
    except BudgetError as error:
        raise BudgetError(f"{error}{describe_unpruned(traced.model, traced.structure)}") from error
    resolve_user_widths(config.budget.keep, traced.structure, allowed)


def _add_latency(config: Config, traced: TracedNetwork, report: Reporter) -> TracedNetwork:
    """Measure latencies and add the fitted model to the cost oracle."""
    structure, shape = traced.structure, get_input_shape(traced.splits)
    allowed = compute_allowed_widths(config, structure)
    oracle = add_latency_cost(traced.model.eval(), structure.maps, structure.oracle, allowed, config, shape, report)
    return replace(traced, structure=replace(structure, oracle=oracle))


def _trace_dense(
    config: Config, report: Reporter, base_run: Run | None = None, inputs: UserInputs = NO_USER_INPUTS
) -> TracedNetwork:
    """Load data and network, trace it, and check everything that needs neither training nor scoring."""
    load_criteria(config.criteria.modules)
    select_criteria(config.criteria.pool)  # an unknown name is reported before data are read
    device = resolve_device(config.fitness.device)
    set_threads(config)
    splits = build_splits(config, inputs)
    for text in (*splits.warnings, *list_gaps(splits, has_validation=inputs.task.evaluate is None)):
        report(Warned(text=text))
    stored = None if base_run is None else base_run.read_arrays("dense")
    folded = () if base_run is None else base_run.structure.get("folded", [])
    model = build_dense_network(config, stored, inputs, get_input_shape(splits), report, folded)
    structure = trace_network(config, model, splits)
    if structure.unreached:
        report(Warned(text=describe_unreached(structure.unreached)))
    if structure.undecided:
        report(Warned(text=describe_undecided(structure.undecided)))
    task = replace(inputs.task, has_class_labels=splits.classes > 0)
    if task.evaluate is None and task.loss is None:
        check_labels(splits, count_outputs(model, splits))
    elif task.has_class_labels and task.loss is None:
        task = replace(task, has_class_labels=is_classifier(model, splits))
    elif task.has_class_labels:
        task = replace(task, counts_errors=scores_classes(model, splits))
    if base_run is not None:
        structure = replace(structure, oracle=load_oracle(base_run, structure))
    elif "memory" in config.budget.get_spans():
        structure = replace(structure, oracle=add_memory_cost(model, structure, get_input_shape(splits)))
    least = compute_min_ratios(structure.oracle.all_decomposed, compute_allowed_widths(config, structure))
    report(Traced(groups=len(structure.maps.groups), frozen=len(structure.frozen), reachable=least))
    hooks = load_hooks(config, inputs)
    check_trainable(config, task, hooks)
    model = model.to(device)
    has_error, dense_loss = task.has_error, None
    if task.evaluate is not None:
        has_error, dense_loss = _check_user_evaluation(task.evaluate, model, config.seed, report)
    return TracedNetwork(model, structure, splits, device, base_run is not None, task, has_error, dense_loss, hooks)


def _check_user_evaluation(
    evaluate: EvaluateFunction, model: nn.Module, seed: int, report: Reporter
) -> tuple[bool, float]:
    """Run `evaluate=` on the dense network before anything slow; return (gives an error, loss).

    Raises EvaluateError where its result cannot be used.
    """
    result, name = run_user_evaluation(evaluate, copy.deepcopy(model), seed), get_function_name(evaluate)
    if not np.isfinite(result.loss):
        raise EvaluateError(f"{name} gave a loss of {result.loss} for the dense network: expected a number")
    report(MetricChecked(by=name, loss=result.loss, metrics=result.extra_metrics))
    return result.has_error, result.loss


def _score_criteria(
    config: Config, traced: TracedNetwork, report: Reporter, checkpoints: TrainingStore = NO_STORE
) -> tuple[ScoreTable, Clusters]:
    """Train the network where it has no weights, score the channels by every criterion, and cluster the criteria."""
    model, splits, device = traced.model, traced.splits, traced.device
    if (
        (config.model.weights is None or config.model.brings_weights)
        and config.model.train is not None
        and not traced.is_trained
    ):
        with call_in_background(import_scikit_learn, hash_own_code):  # needed after the training
            train_base(model, splits, config, traced.task, device, report, checkpoints)
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
    loss = _select_loss(traced.task)
    table = compute_score_table(model, traced.structure, chosen, make_batches, rng.spawn(1)[0], asked.temperature, loss)
    report(Scored(criteria=list(table.criteria), left_out=[asdict(item) for item in table.left_out]))
    cluster = cluster_network if config.search.blend == "clusters" else cluster_groups
    return table, cluster(table, asked.clustering, asked.clusters, config.seed)


def _select_loss(task: Task) -> Any:
    """Return the summed loss that gradient criteria use, or None where there is none."""
    if task.loss is not None:
        return task.compute_summed_loss
    return cross_entropy if task.has_class_labels else None
