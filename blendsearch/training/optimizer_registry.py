"""Registry of optimizers: torch's own, by their names in the config."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from blendsearch.dynamo import make_eager
from blendsearch.errors import ConfigError
from blendsearch.training.schedule import Schedule

OptimizerFactory = Callable[[list[dict[str, Any]], Schedule], Optimizer]

OPTIMIZERS: dict[str, OptimizerFactory] = {}


def register_optimizer(name: str) -> Callable[[OptimizerFactory], OptimizerFactory]:
    """Register a function from parameter groups, whose weight decay is set, and a schedule to an optimizer."""

    def register(function: OptimizerFactory) -> OptimizerFactory:
        OPTIMIZERS[name] = function
        return function

    return register


@register_optimizer("sgd")
def make_sgd(groups: list[dict[str, Any]], schedule: Schedule) -> Optimizer:
    """Stochastic gradient descent with momentum."""
    nesterov = schedule.nesterov and schedule.momentum > 0
    momentum, fused = schedule.momentum, _is_on_gpu(groups)
    optimizer: Optimizer = make_eager(torch.optim.SGD)(
        groups, lr=schedule.rate, momentum=momentum, nesterov=nesterov, fused=fused
    )
    if (
        fused and momentum
    ):  # the fused kernel fails where some parameters have had no gradient yet; zeros change nothing
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


@register_optimizer("adamw")
def make_adamw(groups: list[dict[str, Any]], schedule: Schedule) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""
    betas, fused = (schedule.momentum, 0.999), _is_on_gpu(groups)
    return make_eager(torch.optim.AdamW)(groups, lr=schedule.rate, betas=betas, fused=fused)


def make_optimizer(module: nn.Module, schedule: Schedule) -> Optimizer:
    """Make the optimizer of a schedule for the trainable parameters of `module`.

    Biases and parameters of normalisation layers have no weight decay. Raises ConfigError for an unknown name.
    """
    if schedule.optimizer not in OPTIMIZERS:
        raise ConfigError(f"optimizer {schedule.optimizer!r} is unknown: expected one of {', '.join(OPTIMIZERS)}")
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = _group_by_decay(trained, schedule.weight_decay)
    return OPTIMIZERS[schedule.optimizer](groups, schedule)


def _is_on_gpu(groups: list[dict[str, Any]]) -> bool | None:
    """Return True where all parameters are on a GPU: one kernel then updates them all; else None, torch's choice."""
    return all(parameter.is_cuda for group in groups for parameter in group["params"]) or None


def _group_by_decay(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = [{"params": [], "weight_decay": weight_decay}, {"params": [], "weight_decay": 0.0}]
    for parameter in parameters:
        groups[parameter.ndim <= 1]["params"].append(parameter)
    return groups
