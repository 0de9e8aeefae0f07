"""CUDA graphs without a GPU: operations are recorded while they run, and a replay runs them again in place.

As on a GPU, a replay reads the tensors of the recording and overwrites its results, runs nothing of the host, and an
operation that gives a value to the host is refused in a recording.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class FakeGraph:
    """Takes the place of `torch.cuda.CUDAGraph`.

    Attributes
    ----------
    made: all graphs since `made.clear()`.
    replays: number of replays.
    """

    made: ClassVar[list["FakeGraph"]] = []

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self.replays = 0
        self.made.append(self)

    def replay(self) -> None:
        self.replays += 1
        with torch.no_grad():
            for function, args, kwargs, recorded in self.calls:
                for old, new in zip(recorded, list_tensors(function(*args, **kwargs)), strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class _Recorder(TorchDispatchMode):
    def __init__(self, graph: FakeGraph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        out = function(*args, **(kwargs or {}))
        self.graph.calls.append((function, args, kwargs or {}, list_tensors(out)))
        return out


@contextmanager
def record(graph: FakeGraph, stream: object = None, capture_error_mode: str = "global") -> Iterator[None]:
    """Take the place of `torch.cuda.graph`."""
    with _Recorder(graph):
        yield


def list_tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]
