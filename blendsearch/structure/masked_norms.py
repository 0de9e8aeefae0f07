"""Normalisations and reductions over channels in a masked network: over the kept channels, as in the pruned one.

A layer normalisation over channels computes its statistics from the channels that are left, so that a pruned network
with one is no masked dense network. It is compared with the dense network in which statistics ignore removed channels.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from blendsearch.structure.eager_mode import EagerMode
from blendsearch.structure.reduction_calls import NORMALIZATIONS, REDUCTIONS, CallCounter, format_statistic


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


class _KeptReductions(EagerMode):  # type: ignore[no-untyped-call]
    """Calls known reductions on the kept channels only. `path`: names of the modules that are running."""

    def __init__(self, kept: Mapping[str, Tensor], path: Sequence[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kept, self._path, self._calls = kept, path, CallCounter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func._schema.name.partition("::")[2]
        if name in REDUCTIONS or name in NORMALIZATIONS:
            call = self._calls.count(self._path[-1] if self._path else "", name)
            for dim in range(args[0].ndim):
                kept = self._kept.get(format_statistic(call, dim))
                if kept is not None and name in NORMALIZATIONS:
                    return _normalize_bare(func, args, dim, kept)
                if kept is not None:
                    args = (args[0].index_select(dim, kept), *args[1:])
        return func(*args, **(kwargs or {}))


def _normalize_bare(func: Any, args: tuple[Any, ...], dim: int, kept: Tensor) -> tuple[Tensor, ...]:
    """Normalise the kept channels along `dim`, without weights; others are zero."""
    tensor, chosen = args[0], args[0].index_select(dim, kept)
    if func._schema.name.endswith("native_layer_norm"):
        normalized, *statistics = func(chosen, [len(kept)], None, None, args[4])
    else:  # in one group
        normalized, *statistics = func(chosen, None, None, args[3], len(kept), args[5], 1, args[7])
    return torch.zeros_like(tensor).index_copy(dim, kept, normalized), *statistics


def _append_name(path: list[str], name: str, *_: object) -> None:
    path.append(name)


def reduce_kept_channels(model: nn.Module, kept: Mapping[str, Tensor]) -> None:
    """Make `model` reduce only the kept channels, (K,), in the calls of these names, in every forward pass."""
    path: list[str] = []
    modes: list[_KeptReductions] = []

    def enter(*_: object) -> None:
        path.clear()
        modes.append(_KeptReductions(kept, path))
        modes[-1].__enter__()  # type: ignore[no-untyped-call]

    def leave(*_: object) -> None:
        modes.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]

    if not kept:
        return

    def leave_module(*_: object) -> None:
        path.pop()

    for name, module in model.named_modules():
        module.register_forward_pre_hook(partial(_append_name, path, name))
        module.register_forward_hook(leave_module, always_call=True)
    model.register_forward_pre_hook(enter, prepend=True)
    model.register_forward_hook(leave, always_call=True)
