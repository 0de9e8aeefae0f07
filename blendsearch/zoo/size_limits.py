"""Limits on the size of a network, checked while its factory runs and before its parameters fill memory."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from blendsearch.errors import ModelError

MAX_MODULES = 10_000
"""Layers of a network that is built by name; the largest of torchvision has some 3,000."""


_FILLS = frozenset({"normal_", "uniform_", "fill_", "zero_", "mul_", "add_", "clamp_", "erfinv_", "copy_"})
"""Operations in place that change values only."""


@dataclass(frozen=True)
class SizeLimit:
    """The largest number of elements of parameters and buffers, with its `reason`, and of layers. None: any."""

    elements: int | None
    reason: str
    modules: int | None = MAX_MODULES


@contextmanager
def limit_size(title: str, limit: SizeLimit) -> Iterator[None]:
    """Raise ModelError while a network is built here that exceeds `limit`; `title` names it.

    A tensor is counted when its module registers it. Most layers draw their values after that, and until then memory
    is reserved and not used.
    """
    counter = _SizeCounter(title, limit)
    with ExitStack() as stack:
        for register, hook in (
            (torch_module.register_module_parameter_registration_hook, counter.count_tensor),
            (torch_module.register_module_buffer_registration_hook, counter.count_tensor),
            (torch_module.register_module_module_registration_hook, counter.count_module),
        ):
            stack.callback(register(hook).remove)
        yield


class NoValues(TorchFunctionMode):
    """Builds networks on device meta without initial values: neither memory nor time for them."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs.get("tensor", args[0] if args else None)
        if getattr(func, "__name__", None) in _FILLS and args and args[0].is_meta:
            return args[0]
        return func(*args, **kwargs)


class _SizeCounter:
    """Counts what modules register in this thread; torch's hooks see all threads."""

    def __init__(self, title: str, limit: SizeLimit) -> None:
        self._title, self._limit = title, limit
        self._thread = threading.get_ident()
        self._elements = self._modules = 0
        self._counted: dict[int, Tensor] = {}
        """Tensors by identity, kept alive so that no identity is used twice."""

    def count_tensor(self, module: nn.Module, name: str, value: Tensor | None) -> None:
        if value is None or threading.get_ident() != self._thread or id(value) in self._counted or is_lazy(value):
            return
        if not value.numel() and isinstance(value, nn.Parameter) and self._limit.modules is not None:
            raise ModelError(f"model {self._title!r} has a layer without channels: check its arguments")
        self._counted[id(value)] = value
        self._elements += value.numel()
        most = self._limit.elements
        if most is not None and self._elements > most:
            raise ModelError(
                f"model {self._title!r} has more than {most:,} parameters, {self._limit.reason}: check its arguments"
            )

    def count_module(self, module: nn.Module, name: str, value: nn.Module | None) -> None:
        if threading.get_ident() == self._thread:
            self._modules += 1
            most = self._limit.modules
            if most is not None and self._modules > most:
                raise ModelError(f"model {self._title!r} has more than {most:,} layers: check its arguments")
