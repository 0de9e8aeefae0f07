"""Normalisations over channels in a masked network: over the kept channels, as in the pruned one.

A layer normalisation over channels computes its statistics from the channels that are left, so that a pruned network
with one is no masked dense network. It is compared with the dense network in which statistics ignore removed channels.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class _KeptStatistics(TorchFunctionMode):
    """Calls layer and group normalisations with known weights on the kept channels only; others are zero."""

    def __init__(self, kept: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._kept = kept

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if getattr(func, "__name__", "") in ("layer_norm", "group_norm"):
            weight = args[2] if len(args) > 2 else kwargs.get("weight")
            if weight is not None and id(weight) in self._kept:
                return _call_on_kept(func, args, kwargs, self._kept[id(weight)])
        return func(*args, **kwargs)


def _call_on_kept(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], kept: Tensor) -> Tensor:
    named = dict(zip(("input", "size", "weight", "bias", "eps"), args, strict=False)) | kwargs
    size: Any = named["size"] if "size" in named else kwargs.get("normalized_shape", kwargs.get("num_groups"))
    tensor, weight, bias = named["input"], named["weight"], named.get("bias")
    is_group_norm = func.__name__ == "group_norm"
    if size != 1 if is_group_norm else len(size) != 1:
        return func(*args, **kwargs)  # type: ignore[no-any-return]
    dim = 1 if is_group_norm else tensor.ndim - 1
    chosen = tensor.index_select(dim, kept)
    scaled = func(
        chosen,
        1 if is_group_norm else [len(kept)],
        weight[kept],
        None if bias is None else bias[kept],
        named.get("eps", 1e-5),
    )
    return torch.zeros_like(tensor).index_copy(dim, kept, scaled)


def normalize_kept_channels(model: nn.Module, kept: Mapping[int, Tensor]) -> None:
    """Make `model` normalise over the kept channels, (K,), of weights by their identity, in every forward pass."""
    modes: list[_KeptStatistics] = []

    def enter(*_: object) -> None:
        modes.append(_KeptStatistics(kept))
        modes[-1].__enter__()  # type: ignore[no-untyped-call]

    def leave(*_: object) -> None:
        modes.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]

    if kept:
        model.register_forward_pre_hook(enter)
        model.register_forward_hook(leave, always_call=True)
