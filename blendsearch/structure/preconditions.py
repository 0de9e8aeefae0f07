"""Networks that are refused before anything runs, each in one line."""

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from blendsearch.errors import TraceError

QUANTIZED_PACKAGES = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic", "torch.ao.nn.qat", "torch.nn.quantized")


def check_structure(model: nn.Module) -> None:
    """Raise TraceError for quantised layers, and for weights that are computed in every pass."""
    for name, module in model.named_modules():
        called = name or type(model).__name__
        if _is_quantized(module):
            raise TraceError(
                f"{called} is a quantised layer ({type(module).__name__}), whose weights cannot be cut: prune the "
                "float network, and quantise the result"
            )
        if is_parametrized(module):
            raise TraceError(
                f"the weights of {called} are computed in every pass (such as weight or spectral norm) and cannot be "
                "cut: call torch.nn.utils.parametrize.remove_parametrizations on it first"
            )
        for norm, remedy in _list_weight_hooks(module):
            raise TraceError(
                f"the weights of {called} are computed in every pass ({norm}) and cannot be cut: call {remedy} on it "
                "first"
            )


def _is_quantized(module: nn.Module) -> bool:
    package = type(module).__module__
    return package.startswith(QUANTIZED_PACKAGES) or any(
        isinstance(value, torch.ScriptObject) or getattr(value, "is_quantized", False)
        for value in [*vars(module).values(), *module._parameters.values(), *module._buffers.values()]
        if isinstance(value, torch.ScriptObject | torch.Tensor)
    )


def _list_weight_hooks(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the hooks of torch.nn.utils that compute a weight before each pass, and the functions that remove them."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, SpectralNorm):
            yield "spectral norm", "torch.nn.utils.remove_spectral_norm"
        elif isinstance(hook, WeightNorm):
            yield "weight norm", "torch.nn.utils.remove_weight_norm"
        elif isinstance(hook, BasePruningMethod):
            yield "a mask of torch.nn.utils.prune", f"torch.nn.utils.prune.remove(layer, {hook._tensor_name!r})"
