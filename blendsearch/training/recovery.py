"""Recovery of a pruned network before its evaluation: none, new batch-norm statistics, or a fine-tune."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from blendsearch.data.share import SINGLE_PROCESS, Share
from blendsearch.data.splits import Splits
from blendsearch.data.views import can_load_views
from blendsearch.structure.groups import Cut, IndexMaps
from blendsearch.task import CLASSIFICATION, Task
from blendsearch.training.device import Precision
from blendsearch.training.hooks import NO_HOOKS, TrainContext, TrainingHooks, call_train_function
from blendsearch.training.recalibration import recalibrate
from blendsearch.training.schedule import Schedule
from blendsearch.training.staged import ONE_CUT, Staging, make_stage_plan, train_in_stages
from blendsearch.training.stored_teacher import StoredTeacher, load_or_compute_logits
from blendsearch.training.teacher import LiveTeacher, Teacher
from blendsearch.training.trainer import train
from blendsearch.training.training_options import CheckpointOptions, TrainingOptions
from blendsearch.training.training_store import NO_STORE, TrainingStore

TEACHER_KEY = "teacher"
"""Entry of the training store with the dense network's outputs."""


@dataclass(frozen=True)
class Recipe:
    """Settings of recovery and evaluation.

    Attributes
    ----------
    recalibration_images: training images, without augmentation, for new batch-norm statistics.
    batch_size: images per forward pass.
    tuning: schedule of the short fine-tune.
    final: schedule of the long fine-tune of selected networks. Its rate is NaN where each request names one.
    staging: stages of the long fine-tune.
    distillation: share, in [0, 1], of the dense network's outputs in the loss of the long fine-tune.
    tuning_distillation: the same for the short fine-tune.
    views: augmented views per image for which the dense network's outputs are stored; 0 runs it beside the network.
    view_seed: seed of these views.
    probe_epochs: length of a training that compares learning rates.
    checkpoint_seconds: least time between two checkpoints of a training.
    graphs: whether steps on a GPU are recorded as a CUDA graph where they can be.
    precision: precision of the products in all forward and backward passes.
    task: the loss of fine-tunes and the metrics of evaluation.
    hooks: user-defined training.
    share: this process's part of every batch, in fine-tunes by several processes.
    """

    recalibration_images: int
    batch_size: int
    tuning: Schedule
    final: Schedule
    staging: Staging = ONE_CUT
    distillation: float = 0.0
    tuning_distillation: float = 0.0
    views: int = 0
    view_seed: int = 0
    probe_epochs: float = 1.0
    checkpoint_seconds: float = 60.0
    graphs: bool = True
    precision: Precision = "float32"
    task: Task = CLASSIFICATION
    hooks: TrainingHooks = NO_HOOKS
    share: Share = SINGLE_PROCESS


@dataclass(frozen=True, eq=False)
class RecoveryContext:
    """Everything besides the pruned network that a recovery needs.

    Attributes
    ----------
    dense: the unpruned network; not changed.
    seed: seed of all random numbers of the recovery.
    key: name of the training's checkpoint in `store`; empty for none.
    rate: learning rate instead of the schedule's; None for that one.
    maps, cut, source: groups of the dense network, the cut of the pruned one, and the network that it was cut from; for
        a training in stages.
    stop: part of the long schedule, in (0, 1], at which the training stops.
    """

    dense: nn.Module
    splits: Splits
    recipe: Recipe
    device: torch.device
    seed: int
    store: TrainingStore = NO_STORE
    key: str = ""
    rate: float | None = None
    maps: IndexMaps | None = None
    cut: Cut | None = None
    source: nn.Module | None = None
    stop: float = 1.0


Recovery = Callable[[nn.Module, RecoveryContext], None]
"""Recovers a pruned network in place."""


def skip_recovery(module: nn.Module, context: RecoveryContext) -> None:
    """Leave the network as it is after the cut."""


def recalibrate_statistics(module: nn.Module, context: RecoveryContext) -> None:
    """Estimate the statistics of every batch-norm anew."""
    recipe = context.recipe
    recalibrate(
        module, context.splits, recipe.recalibration_images, recipe.batch_size, context.device, recipe.precision
    )


def recover_by_tuning(module: nn.Module, context: RecoveryContext) -> None:
    """Recalibrate, and train by the short schedule."""
    _fine_tune(module, context, context.recipe.tuning, context.recipe.tuning_distillation)


def recover_by_final_training(module: nn.Module, context: RecoveryContext) -> None:
    """Recalibrate, and train by the long schedule up to `context.stop`; the last state stays in the store."""
    if context.recipe.staging.stages > 1:
        _train_in_stages(module, context)
        return
    _fine_tune(module, context, context.recipe.final, context.recipe.distillation, keep=True)


def recover_by_probe(module: nn.Module, context: RecoveryContext) -> None:
    """Recalibrate, and train for `probe_epochs` by a schedule that is otherwise the long one."""
    recipe = context.recipe
    _fine_tune(module, context, replace(recipe.final, epochs=recipe.probe_epochs), recipe.distillation)


FIDELITIES: dict[str, Recovery] = {
    "raw": skip_recovery,
    "recalibrated": recalibrate_statistics,
    "tuned": recover_by_tuning,
    "probe": recover_by_probe,
    "final": recover_by_final_training,
}
"""Recovery of each fidelity, from the lowest to the highest."""

UNTRAINED_FIDELITIES = frozenset({"raw", "recalibrated"})
"""Fidelities that change no weight by gradients."""

LONG_FIDELITIES = frozenset({"probe", "final"})
"""Fidelities that `engine.final_timeout` limits instead of `engine.timeout`."""


def _fine_tune(
    module: nn.Module, context: RecoveryContext, schedule: Schedule, distillation: float, *, keep: bool = False
) -> None:
    recalibrate_statistics(module, context)
    schedule, rng = _set_rate(schedule, context), np.random.default_rng(context.seed)
    if context.recipe.hooks.train_fn is not None:
        _call_user_training(module, context, schedule)
        return
    options = replace(_make_options(context, distillation, keep=keep), stop=context.stop)
    train(module, context.splits, schedule, context.device, rng, options)
    if context.key and not keep:
        context.store.delete(context.key)


def _train_in_stages(module: nn.Module, context: RecoveryContext) -> None:
    """Train from the dense network along nested cuts, and copy the result into `module`."""
    recipe = context.recipe
    assert context.maps is not None and context.cut is not None, "a training in stages needs the maps and the cut"
    source = context.dense if context.source is None else context.source
    plan = make_stage_plan(source, context.maps, context.cut, context.splits, context.device, recipe.staging)
    options = _make_options(context, recipe.distillation, keep=True)
    schedule = _set_rate(recipe.final, context)
    trained = train_in_stages(source, plan, context.splits, schedule, context.device, context.seed, options)
    module.load_state_dict(trained.state_dict())
    module.eval()


def _set_rate(schedule: Schedule, context: RecoveryContext) -> Schedule:
    return schedule if context.rate is None else replace(schedule, rate=context.rate)


def _make_options(context: RecoveryContext, distillation: float, *, keep: bool) -> TrainingOptions:
    recipe = context.recipe
    checkpoints = CheckpointOptions(context.store, context.key, recipe.checkpoint_seconds, keep)
    teacher = make_teacher(context, distillation) if distillation else None
    options = TrainingOptions(recipe.precision, recipe.task, teacher, recipe.share, recipe.hooks, checkpoints)
    return replace(options, graphs=recipe.graphs)


def make_teacher(context: RecoveryContext, weight: float) -> Teacher:
    """Make a teacher from the dense network: its stored outputs, or, where images have no fixed views, the network.

    No more views are stored than the long schedule has epochs, or the short one where only that is distilled.
    """
    recipe = context.recipe
    longest = recipe.final if recipe.distillation else recipe.tuning
    views = min(recipe.views, math.ceil(longest.epochs))
    if not views or not can_load_views(context.splits):
        return LiveTeacher(context.dense, weight)
    logits = load_or_compute_logits(
        context.store,
        TEACHER_KEY,
        context.dense,
        context.splits,
        views,
        recipe.view_seed,
        context.device,
        recipe.precision,
    )
    return StoredTeacher(logits, weight, view_seed=recipe.view_seed)


def _call_user_training(module: nn.Module, context: RecoveryContext, schedule: Schedule) -> None:
    function = context.recipe.hooks.train_fn
    assert function is not None
    with context.store.open_folder(context.key or "training") as folder:
        call = TrainContext(schedule.epochs, 0.0, 1.0, context.seed, context.device, folder, context.dense)
        call_train_function(function, module, call)
