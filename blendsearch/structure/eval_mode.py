"""Temporary evaluation mode."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import fx, nn


@contextmanager
def use_eval_mode(model: nn.Module) -> Iterator[None]:
    """Set `model` to evaluation mode inside this context; restore its modes and `requires_grad` flags afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            if isinstance(module, fx.GraphModule) and module.training != training:
                module.train(training)  # it may have a graph for each mode
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in flags:
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)
