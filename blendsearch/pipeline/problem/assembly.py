"""Assembly of a problem from its parts, wherever they come from."""

from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from blendsearch.blend.clustering import Clusters
from blendsearch.blend.decoder import Decoder
from blendsearch.criteria.table import ScoreTable
from blendsearch.data.splits import Splits
from blendsearch.errors import ConfigError
from blendsearch.fitness.evaluator import Evaluator
from blendsearch.pipeline.problem.base_network import get_input_shape
from blendsearch.pipeline.problem.from_config import (
    compute_allowed_widths,
    make_fixed_widths,
    make_schedule,
    make_space,
)
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.runs.config.block_removal_rules import removes_blocks
from blendsearch.runs.config.schema import Config
from blendsearch.structure.depthwise import compute_misfit
from blendsearch.structure.depthwise_layers import add_decomposable_layers
from blendsearch.structure.folding import fold_computed_weights
from blendsearch.structure.preconditions import check_structure
from blendsearch.structure.residual_blocks import add_removable_blocks
from blendsearch.structure.trace import MAX_IMAGES, Structure, trace_structure
from blendsearch.task import CLASSIFICATION, Task, seed_rngs
from blendsearch.training.hooks import NO_HOOKS, TrainingHooks
from blendsearch.training.recovery import Recipe
from blendsearch.training.refit import RefitOptions, Refitter, make_refitter
from blendsearch.training.staged import Staging


@dataclass(frozen=True, eq=False)
class TracedNetwork:
    """A dense network on its device, its structure, its data and its task.

    `is_trained`: the network needs no base training. `has_error` and `dense_loss`: see `Problem`. `hooks`: user-defined
    training.
    """

    model: nn.Module
    structure: Structure
    splits: Splits
    device: torch.device
    is_trained: bool = False
    task: Task = CLASSIFICATION
    has_error: bool = True
    dense_loss: float | None = None
    hooks: TrainingHooks = NO_HOOKS


def trace_network(config: Config, model: nn.Module, splits: Splits) -> Structure:
    """Trace `model` on the CPU, on training images, after folding layers that compute their weights in place.

    With `transform: depthwise`, decomposable layers are marked, with `search.blocks` removable blocks.
    """
    shape = get_input_shape(splits)
    images, _ = next(splits.iter_batches(splits.train, batch_size=MAX_IMAGES, device=torch.device("cpu")))
    check_structure(model)
    _fold_layers(model.eval(), images[:2])
    structure = trace_structure(model, shape, images)
    if removes_blocks(config):
        structure = add_removable_blocks(model, structure, shape, images)
        if config.search.blocks is True and not structure.maps.blocks:
            raise ConfigError(f"search.blocks: no block of {type(model).__name__} has a bypass: leave it out")
        return structure
    return structure if config.transform == "none" else add_decomposable_layers(model, structure, shape)


def _fold_layers(model: nn.Module, images: torch.Tensor) -> None:
    with suppress(Exception):  # the tracing reports what the network does not accept
        fold_computed_weights(model, images)


def assemble_problem(config: Config, traced: TracedNetwork, table: ScoreTable, clusters: Clusters) -> Problem:
    """Make the decoder and the evaluator of a traced and scored network."""
    decoder = _make_decoder(config, traced, table, clusters)
    traced.model.eval()
    evaluator = make_evaluator(config, traced)
    return Problem(config, traced.structure, table, clusters, decoder, evaluator, traced.has_error, traced.dense_loss)


def set_threads(config: Config) -> None:
    """Apply `engine.threads` to torch."""
    if config.engine.threads is not None:
        torch.set_num_threads(config.engine.threads)


def _make_decoder(config: Config, traced: TracedNetwork, table: ScoreTable, clusters: Clusters) -> Decoder:
    structure, model = traced.structure, traced.model
    layers, blocks = structure.maps.layers, structure.maps.blocks
    space = make_space(config, table, clusters)
    if blocks:
        space = replace(space, layers=len(blocks), transform_name="blocks")
    elif layers:
        space = replace(space, layers=len(layers))
    allowed = compute_allowed_widths(config, structure)
    return Decoder(
        space,
        table,
        structure.oracle,
        allowed,
        config.budget.get_spans(),
        make_fixed_widths(config, structure, allowed, table),
        misfit=np.array([compute_misfit(model.get_parameter(f"{name}.weight")) for name in layers]),
    )


def make_evaluator(config: Config, traced: TracedNetwork) -> Evaluator:
    """Make the evaluator of a traced network."""
    fitness, structure = config.fitness, traced.structure
    recipe = Recipe(
        recalibration_images=fitness.recalibration_images,
        batch_size=fitness.batch_size,
        tuning=make_schedule(fitness.tuning),
        final=make_schedule(config.finals.tuning),
        staging=Staging(config.finals.stages, **config.finals.staging.model_dump()),
        distillation=config.finals.distillation,
        tuning_distillation=fitness.tuning.distillation,
        views=config.training.views,
        view_seed=config.seed,
        probe_epochs=config.finals.probe.epochs,
        checkpoint_seconds=config.training.checkpoint_seconds,
        graphs=config.training.graphs,
        precision=fitness.get_precision(),
        task=traced.task,
        hooks=traced.hooks,
    )
    with seed_rngs(config.seed):
        refitter = _make_refitter(config, structure, traced.model, traced.splits, traced.device)
    data = traced.splits, recipe, traced.device
    target = "labels" if fitness.against == "auto" and traced.task.is_custom else fitness.against
    fits_temperature = fitness.temperature == "fitted"
    return Evaluator(traced.model, structure.maps, *data, refitter, target, fits_temperature, capacity=fitness.capacity)


def _make_refitter(
    config: Config, structure: Structure, model: nn.Module, splits: Splits, device: torch.device
) -> Refitter | None:
    """Make the refitter of pruned networks, or None.

    Without `fitness.repair`, it fits decomposed layers only, and there is none where no layer may be decomposed.
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
            precision=fitness.get_precision(),
            all_layers=fitness.repair != "none",
        ),
    )
