"""Looking at a network without leaving a mark on it."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def use_eval_mode(model: nn.Module) -> Iterator[None]:
    """Inside, `model` is in evaluation mode; afterwards its modes and what takes gradients are as before."""
    modes = [(module, module.training) for module in model.modules()]
    wants = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, wanted in wants:
            parameter.requires_grad_(wanted)
