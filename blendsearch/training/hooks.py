"""User-defined parts of training: a whole training function, or an optimizer, a scheduler and callbacks."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

from blendsearch.errors import TrainingError
from blendsearch.task import get_function_name, seed_rngs
from blendsearch.training.schedule import Schedule


@dataclass(frozen=True, eq=False)
class TrainContext:
    """The circumstances of one call of a user-defined training function.

    Attributes
    ----------
    epochs: epochs to train in this call; may be a fraction.
    start, stop: parts of the whole schedule, in [0, 1], at which this call begins and ends. A learning rate that
        depends on the epoch follows them: the schedule's length is `epochs / (stop - start)`.
    seed: seed of all random numbers; Python's, NumPy's and torch's global generators are already seeded with it.
    device: device of the module.
    directory: folder for checkpoints of this call. It is the same when an interrupted call is repeated, and it is
        removed when the call has returned.
    dense: the unpruned network, for distillation. Do not change it.
    """

    epochs: float
    start: float
    stop: float
    seed: int
    device: torch.device
    directory: Path
    dense: nn.Module


class StepInfo(NamedTuple):
    """What a callback receives after a step or an epoch.

    Attributes
    ----------
    step, steps: steps done and in all.
    epoch: epochs done, with fractions.
    loss: training loss of the step, or its mean over the epoch.
    rate: learning rate of the first parameter group.
    """

    module: nn.Module
    step: int
    steps: int
    epoch: float
    loss: float
    rate: float


TrainFunction = Callable[[nn.Module, TrainContext], Mapping[str, float] | None]


@dataclass(frozen=True, eq=False)
class TrainingHooks:
    """User-defined functions of a training.

    Attributes
    ----------
    train_fn: trains the module in place and may return metrics; replaces the built-in training.
    optimizer: makes the optimizer from the module and the schedule.
    scheduler: makes the learning-rate scheduler from the optimizer and the number of steps. It is stepped once per
        step.
    on_step, on_epoch: receive a `StepInfo` after every step or epoch. They must not change the random state.
    """

    train_fn: TrainFunction | None = None
    optimizer: Callable[[nn.Module, Schedule], Optimizer] | None = None
    scheduler: Callable[[Optimizer, int], Any] | None = None
    on_step: Callable[[StepInfo], None] | None = None
    on_epoch: Callable[[StepInfo], None] | None = None

    def get_function_names(self) -> dict[str, str]:
        """Return the names of the functions that are set, by their role."""
        return {name: get_function_name(function) for name, function in self.list_functions().items()}

    def list_functions(self) -> dict[str, Callable[..., Any]]:
        """Return the functions that are set, by their role."""
        found = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: function for name, function in found.items() if function is not None}


NO_HOOKS = TrainingHooks()


def call_train_function(function: TrainFunction, module: nn.Module, context: TrainContext) -> dict[str, float]:
    """Train `module` by a user-defined function; return the metrics that it returned.

    Raises TrainingError where the network no longer has its parameters, or where they are not finite. Errors of the
    function itself propagate.
    """
    called = get_function_name(function)
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    context.directory.mkdir(parents=True, exist_ok=True)
    with seed_rngs(context.seed), torch.enable_grad():
        module.train()
        returned = function(module, context)
    module.to(context.device).eval()
    if inspect.iscoroutine(returned):
        returned.close()
        raise TrainingError(f"{called} is asynchronous: expected a plain function that trains the module in place")
    found = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    if found != shapes:
        changed = min(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name))
        raise TrainingError(f"{called} changed {changed}: expected the module with the same parameters and buffers")
    for name, parameter in module.named_parameters():
        if not torch.isfinite(parameter).all():
            raise TrainingError(f"{called} left NaN or infinity in {name}: lower its learning rate")
    if returned is None:
        return {}
    if not isinstance(returned, Mapping):
        raise TrainingError(f"{called} returned {type(returned).__name__}: expected None or a dict of numbers")
    return {str(name): float(value) for name, value in returned.items()}
