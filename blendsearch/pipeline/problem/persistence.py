"""Record a problem in a run directory, and restore it from there."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from blendsearch.data.splits import Splits
from blendsearch.errors import RunError
from blendsearch.events import Reporter, ignore_event
from blendsearch.pipeline.problem.assembly import TracedNetwork, assemble_problem, set_threads, trace_network
from blendsearch.pipeline.problem.base_network import get_input_shape
from blendsearch.pipeline.problem.costs import (
    add_latency_cost,
    add_memory_cost,
    describe_conditions,
    describe_latency_model,
)
from blendsearch.pipeline.problem.from_config import compute_allowed_widths
from blendsearch.pipeline.problem.inputs import (
    NO_USER_INPUTS,
    UserInputs,
    build_dense_network,
    build_splits,
    check_user_inputs,
    load_hooks,
    resolve_finals,
)
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.pipeline.problem.tasks import load_task
from blendsearch.runs.compatibility import hash_code
from blendsearch.runs.config.schema import Config
from blendsearch.runs.config_changes import check_config_copy
from blendsearch.runs.cost_files import COSTS_FILE, collect_cost_arrays, load_oracle
from blendsearch.runs.provenance import collect_provenance, hash_arrays
from blendsearch.runs.records import InheritedEvaluation
from blendsearch.runs.run import ELASTIC_FILE, Run, create_run
from blendsearch.runs.run_facts import BlockFacts, GroupFacts, ParentFacts, StructureFacts
from blendsearch.runs.score_files import collect_score_arrays, describe_scores, read_scores
from blendsearch.runs.trust import sign_run
from blendsearch.structure.folding import list_folded_layers
from blendsearch.structure.latency_model import LatencyModel
from blendsearch.structure.residual_blocks import list_output_sources
from blendsearch.structure.trace import Structure
from blendsearch.training.device import resolve_device


def record(
    problem: Problem,
    folder: Path,
    name: str,
    command: list[str],
    parent: Mapping[str, Any] | None = None,
    inherited: Sequence[InheritedEvaluation] = (),
) -> Run:
    """Make the run directory of `problem`; a fork states its `parent` and the evaluations it has `inherited`."""
    weights, scores = get_state_arrays(problem.model), collect_score_arrays(problem.table)
    origin = collect_provenance(
        command,
        str(problem.evaluator.device),
        hash_arrays(weights),
        problem.splits.compute_digest(),
        hash_arrays(scores),
        hash_code(problem.config.model.factory),
    )
    if parent is not None:
        origin["parent"] = cast(ParentFacts, dict(parent))
    described = describe_scores(problem.table, problem.clusters)
    structure: StructureFacts = {
        "groups": _list_groups(problem.structure),
        "frozen": [asdict(item) for item in problem.structure.frozen],
        "dense": dict(problem.structure.oracle.dense),
        "criteria": described["criteria"],
        "left_out": described["left_out"],
        "clusters": described["clusters"],
        "splits": problem.splits.note,
        "input": problem.splits.describe_input(),
        "images": _count_images(problem.splits),
    }
    if problem.structure.maps.layers:
        structure["layers"] = list(problem.structure.maps.layers)
    if folded := list_folded_layers(problem.model):
        structure["folded"] = list(folded)
    if blocks := _list_blocks(problem.structure):
        structure["blocks"] = blocks
    if sizes := problem.structure.maps.list_size_sources():
        structure["sizes"] = {name: source.tolist() for name, source in sizes.items()}
    task = problem.evaluator.recipe.task
    if task.is_custom:
        names = {role: name for role, name in task.get_function_names().items() if role not in task.configured}
        structure |= {"error": problem.has_error, "trains_on_classes": task.has_class_labels}
        if names:
            structure["task"] = names
        if task.metric and problem.has_error:
            structure["metric"] = task.metric
    hooks = problem.evaluator.recipe.hooks.get_function_names()
    named = problem.config.training.get_function_names()
    if python_hooks := {role: name for role, name in hooks.items() if role not in named}:
        structure["hooks"] = python_hooks
    arrays = {"dense": weights, "scores": scores}
    if problem.evaluator.tuned is not None:
        arrays[ELASTIC_FILE] = get_state_arrays(problem.evaluator.tuned)
    if costs := collect_cost_arrays(problem.structure.oracle):
        arrays[COSTS_FILE] = costs
    latency = problem.structure.oracle.extra_costs.get("latency")
    if isinstance(latency, LatencyModel):
        where = describe_conditions(problem.model, problem.config.budget)
        structure["latency"] = {**describe_latency_model(latency), "where": where}
    run = create_run(folder, name, problem.config, origin, structure, arrays, inherited)
    sign_run(run.path, run.config)
    return run


def _count_images(splits: Splits) -> dict[str, int]:
    """Count the images of each split; `unused` only where there are some."""
    found = {"train": splits.train, "val": splits.val, "test": splits.test, "unused": splits.unused}
    return {name: len(split) for name, split in found.items() if split is not None}


def restore(
    run: Run,
    fork: Config | None = None,
    report: Reporter = ignore_event,
    inputs: UserInputs = NO_USER_INPUTS,
) -> Problem:
    """Restore the problem of `run`: same weights, same scores, nothing trained or measured again.

    `fork`: another config for the same model, data and criteria; costs that it budgets for the first time are measured.
    Raises RunError where data, weights, scores or structure differ from the run's, and where Python objects that it was
    searched with are missing in `inputs`.
    """
    check_user_inputs(run, inputs)
    inputs = replace(inputs, task=load_task(run.config if fork is None else fork, inputs.task))
    if fork is None:
        check_config_copy(run)
    config = run.config if fork is None else fork
    device = resolve_device(config.fitness.device)
    set_threads(config)
    splits = build_splits(config, inputs)
    if splits.compute_digest() != run.provenance["data_sha256"]:
        raise RunError(
            f"run {run.name!r} was made with other data than {config.data.dataset!r} now holds: restore that data"
        )
    weights = run.read_arrays("dense")
    if hash_arrays(weights) != run.provenance["weights_sha256"]:
        raise RunError(f"run {run.name!r}: dense.safetensors is not the one the run was made with: restore it")
    scores = hash_arrays(run.read_arrays("scores"))
    if run.provenance.get("scores_sha256", scores) != scores:
        raise RunError(f"run {run.name!r}: scores.safetensors is not the one its criteria gave: restore it")
    folded = run.structure.get("folded", [])
    model = build_dense_network(config, weights, inputs, get_input_shape(splits), folded=folded)
    if weights.keys() != get_state_arrays(model).keys() or not all(
        np.isfinite(item).all() for item in weights.values()
    ):
        raise RunError(f"run {run.name!r}: dense.safetensors does not hold the weights of its network: restore it")
    structure = trace_network(config, model, splits)
    groups, layers = _list_groups(structure), list(structure.maps.layers)
    found = groups, layers, _list_blocks(structure)
    known = run.structure["groups"], run.structure.get("layers", []), run.structure.get("blocks", [])
    if found[: 2 if fork else 3] != known[: 2 if fork else 3]:  # a fork may begin to remove blocks, or stop it
        raise RunError(
            f"run {run.name!r} found other groups in this network: it was made by other code or another version of "
            "torch; install the versions in its run.json"
        )
    structure = replace(structure, oracle=load_oracle(run, structure, config.budget))
    missing = {"memory", "latency"} & config.budget.get_spans().keys() - structure.oracle.extra_costs.keys()
    if "memory" in missing:
        structure = replace(structure, oracle=add_memory_cost(model, structure, get_input_shape(splits)))
    model = model.to(device)
    if "latency" in missing:
        shape, allowed = get_input_shape(splits), compute_allowed_widths(config, structure)
        oracle = add_latency_cost(model.eval(), structure.maps, structure.oracle, allowed, config, shape, report)
        structure = replace(structure, oracle=oracle)
    has_error, hooks = run.structure.get("error", True), load_hooks(config, inputs)
    has_classes = run.structure.get("trains_on_classes", True)
    task = replace(inputs.task, has_class_labels=has_classes, counts_errors=has_error and has_classes)
    traced = TracedNetwork(model, structure, splits, device, True, task, has_error, hooks=hooks)
    config = resolve_finals(config, task, hooks)
    return attach_stored_tune(run, assemble_problem(config, traced, *read_scores(run)))


def attach_stored_tune(run: Run, problem: Problem) -> Problem:
    """Return `problem` with the network of the elastic tune of `run`, if both have one."""
    if not problem.config.training.elastic.epochs or problem.evaluator.tuned is not None:
        return problem
    return replace(problem, evaluator=replace(problem.evaluator, tuned=load_tuned(run, problem.model)))


def load_tuned(run: Run, dense: nn.Module) -> nn.Module | None:
    """Return a copy of the dense network with the weights of the elastic tune of `run`; None where there are none yet.

    Raises RunError for weights of another network.
    """
    if not run.has_arrays(ELASTIC_FILE):
        return None
    tuned, arrays = copy.deepcopy(dense), run.read_arrays(ELASTIC_FILE)
    try:
        tuned.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()}, strict=False)
    except RuntimeError as error:
        raise RunError(f"run {run.name!r}: {ELASTIC_FILE}.safetensors is of another network: restore it") from error
    return tuned.eval()


def get_state_arrays(model: nn.Module) -> dict[str, NDArray[Any]]:
    """Return the state dict of `model` as arrays."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}


def _list_blocks(structure: Structure) -> list[BlockFacts]:
    maps = structure.maps
    return [
        {
            "groups": [maps.groups[number].name for number in block],
            "layers": {name: source.tolist() for name, source in list_output_sources(maps, block).items()},
        }
        for block in maps.blocks
    ]


def _list_groups(structure: Structure) -> list[GroupFacts]:
    return [{"name": group.name, "channels": group.channels} for group in structure.maps.groups]
