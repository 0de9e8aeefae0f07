"""Conditions of a training besides its schedule."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from blendsearch.data.share import SINGLE_PROCESS, Share
from blendsearch.task import CLASSIFICATION, Task
from blendsearch.training.device import Precision
from blendsearch.training.hooks import NO_HOOKS, TrainingHooks
from blendsearch.training.teacher import Teacher
from blendsearch.training.training_store import NO_STORE, TrainingStore


@dataclass(frozen=True, eq=False)
class CheckpointOptions:
    """Where and how often a training stores its state.

    Attributes
    ----------
    key: name of the entry; the same for the same training.
    seconds: least time between two checkpoints.
    keep: True to store the state at the end as well, for a training that continues later.
    conditions: further conditions that a stored state must agree with.
    replaces: key of an entry that is deleted after this training has stored its first state; empty for none.
    """

    store: TrainingStore
    key: str = ""
    seconds: float = 60.0
    keep: bool = False
    conditions: str = ""
    replaces: str = ""


NO_CHECKPOINTS = CheckpointOptions(NO_STORE)


@dataclass(frozen=True, eq=False)
class TrainingOptions:
    """Conditions of a training besides its schedule.

    Attributes
    ----------
    precision: precision of the products in forward and backward passes.
    task: the loss.
    teacher: source of targets to distil from; None for none.
    share: this process's part of every batch.
    hooks: user-defined optimizer, scheduler and callbacks.
    checkpoints: where the state is stored.
    start, stop: parts of the schedule, in [0, 1], at which the training begins and stops; with `checkpoints.keep` it
        continues from there.
    after_step: changes the module after each step of the optimizer; receives the part of this training that is done, in
        (0, 1]. It must depend on its arguments alone.
    graphs: whether steps on a GPU are recorded as a CUDA graph where they can be.
    """

    precision: Precision = "float32"
    task: Task = CLASSIFICATION
    teacher: Teacher | None = None
    share: Share = SINGLE_PROCESS
    hooks: TrainingHooks = NO_HOOKS
    checkpoints: CheckpointOptions = NO_CHECKPOINTS
    start: float = 0.0
    stop: float = 1.0
    after_step: Callable[[nn.Module, float], None] | None = None
    graphs: bool = True


DEFAULT_OPTIONS = TrainingOptions()
