"""Layers that the traced images do not reach, and channels that they could read."""

import inspect
from collections.abc import Iterable, Iterator
from types import CodeType

import numpy as np
from numpy.typing import NDArray
from torch import nn

from blendsearch.structure.labels import Labels, get_vector

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
DYNAMIC_NAMES = ("getattr", "children", "named_children", "modules", "named_modules", "_modules", "get_submodule")


class ReachRecord:
    """Records which layers run, and the channels of the activations that each module sees."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._layers = {
            name: module
            for name, module in model.named_modules()
            if any(True for _ in module.parameters(recurse=False))
        }
        self._owners: dict[str, list[str]] = {}
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        for name, module in self._layers.items():
            for parameter in module.parameters(recurse=False):
                self._owners.setdefault(names[id(parameter)], []).append(name)
        self._reached: set[str] = set()
        self._activations: dict[str, dict[bytes, NDArray[np.int64]]] = {}

    def add_tensors(self, names: Iterable[str]) -> None:
        """Record parameters or buffers that an operation with a non-empty result has used."""
        for name in names:
            self._reached.update(self._owners.get(name, ()))

    def add_activation(self, module: str, labels: Labels) -> None:
        """Record the labels of an activation inside the forward pass of `module`."""
        vector = get_vector(labels)
        if vector is not None:
            array = vector[1].numpy()
            self._activations.setdefault(module, {})[array.tobytes()] = array

    def list_unreached(self) -> list[str]:
        """List the layers with parameters of their own that never ran on anything."""
        return [name for name in self._layers if name not in self._reached]

    def list_readable(self, images: int) -> Iterator[tuple[NDArray[np.int64], str]]:
        """Yield labels that a layer which never ran could read, as those of a module around it have its width."""
        for name in self.list_unreached():
            if not is_called_by_code(self._model, name):
                continue
            width = _get_width(self._layers[name])
            reached = "the traced image does not reach" if images == 1 else f"none of {images} traced images reaches"
            for around in _list_modules_around(name):
                for labels in self._activations.get(around, {}).values():
                    if len(labels) == width:
                        yield labels, f"{name}, which {reached}, could read it"


def _get_width(layer: nn.Module) -> int:
    """Return the number of channels that a layer reads."""
    for attribute in ("in_channels", "in_features", "num_features", "num_channels"):
        if hasattr(layer, attribute):
            return int(getattr(layer, attribute))
    return max(max(parameter.shape, default=1) for parameter in layer.parameters(recurse=False))


def _list_modules_around(name: str) -> list[str]:
    parts = name.split(".")[:-1]
    return [".".join(parts[:count]) for count in range(len(parts) + 1)]


def is_called_by_code(model: nn.Module, name: str) -> bool:
    """Return True if the code of a module around the layer called `name` may call it.

    That is code which reads an attribute of its name. Code that reads attributes by computed names, or lists modules,
    may call any layer.
    """
    parts = name.split(".")
    around = [model.get_submodule(".".join(parts[:count])) for count in range(len(parts))]
    attribute = next(
        (
            part
            for part, owner in zip(reversed(parts), reversed(around), strict=True)
            if not isinstance(owner, CONTAINERS)
        ),
        parts[0],
    )
    return any(
        names & {attribute, *DYNAMIC_NAMES}
        for names in (_list_names(type(owner)) for owner in around if not isinstance(owner, CONTAINERS))
    ) or isinstance(around[0], CONTAINERS)


def _list_names(kind: type) -> set[str]:
    """List the names that `forward` of a class, and the methods that it names, read."""
    found: set[str] = set()
    waiting = ["forward"]
    while waiting:
        method = getattr(kind, waiting.pop(), None)
        code = getattr(inspect.unwrap(method) if callable(method) else None, "__code__", None)
        names = set(_iter_names(code)) - found if code is not None else set()
        found |= names
        waiting += [name for name in names if name not in vars(nn.Module)]
    return found


def _iter_names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _iter_names(constant)
        elif isinstance(constant, str):
            yield constant
