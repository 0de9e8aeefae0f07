"""Keeps torch._dynamo unloaded: torch imports it, for seconds, where it excludes a function from compilation."""

import sys
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.optim import Optimizer


def skip_dynamo(*functions: Callable[..., Any]) -> None:
    """Let `functions` of torch run without torch._dynamo, unless it is loaded already.

    They are those that torch decorates by ``torch._disable_dynamo``, which imports it at their first call.
    """
    if "torch._dynamo" in sys.modules:
        return
    for function in functions:
        wrapped = getattr(function, "__wrapped__", None)
        if wrapped is not None:
            vars(wrapped).setdefault("__dynamo_disable", wrapped)


@cache
def make_eager(optimizer: "type[Optimizer]") -> "Callable[..., Optimizer]":
    """Make a subclass of `optimizer`, a class of torch, whose steps and groups need no torch._dynamo.

    Its steps compute the same. They are not prepared for compilation.
    """
    import torch

    skip_dynamo(optimizer.add_param_group, optimizer.load_state_dict, optimizer.state_dict, optimizer.zero_grad)
    step = getattr(optimizer.step, "__wrapped__", None)
    return optimizer if step is None else type(optimizer.__name__, (optimizer,), {"step": torch.no_grad()(step)})
