"""Exact peak activation memory of any cut, from the lifetimes of tensors in a forward pass.

Counted in bytes: the image and every tensor that one forward pass of one float32 image makes, from the operation that
makes it until its last reference is dropped. A tensor that is changed in place or viewed counts once. Not counted:
weights, buffers, and scratch space inside a kernel. An operation's inputs and outputs live at the same time, so the
peak always follows an operation.

A cut changes the sizes of these tensors but not their lifetimes. Each size is a constant plus bytes per kept channel of
each group. So the live bytes after every operation are linear in the counts, and the peak is the largest of these sums.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

from blendsearch.errors import TraceError
from blendsearch.structure.eager_mode import EagerMode
from blendsearch.structure.eval_mode import use_eval_mode
from blendsearch.structure.groups import Cut, IndexMaps
from blendsearch.structure.surgery import copy_with_tensors, narrow


@dataclass(frozen=True, eq=False)
class PeakMemory:
    """Peak activation bytes as the maximum of linear functions of the kept channels.

    Attributes
    ----------
    base, slope: (E,) and (E, groups): base[e] + slope[e] @ counts bytes are live after operation e.
    """

    base: NDArray[np.int64]
    slope: NDArray[np.int64]

    def __call__(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Compute the bytes of kept channels per group: (..., groups) -> (...)."""
        return np.asarray((counts @ self.slope.T + self.base).max(axis=-1))


@dataclass(frozen=True)
class Lifetimes:
    """Tensors of one forward pass, numbered in the order of creation.

    `sizes` holds their bytes. `live` holds, for each operation that made a tensor, the numbers of those alive after it.
    """

    sizes: tuple[int, ...]
    live: tuple[tuple[int, ...], ...]

    @property
    def peak(self) -> int:
        """Largest number of bytes alive at once."""
        return max(sum(self.sizes[number] for number in together) for together in self.live)


def trace_peak_memory(
    model: nn.Module, maps: IndexMaps, input_shape: tuple[int, int, int], seed: int = 0
) -> PeakMemory:
    """Find the peak memory of every cut of `model`, on the CPU, for one image of shape (channels, height, width).

    The bytes per channel come from one forward pass per group with one of its channels removed. It computes shapes only
    if the network allows it, which takes milliseconds. The result is checked on a random cut that really runs. Raises
    TraceError if tensor sizes are not linear in the widths, or if lifetimes change.
    """
    with use_eval_mode(model):
        image = torch.zeros(1, *input_shape)
        try:
            shapes = copy_with_tensors(model, lambda tensor: torch.empty_like(tensor, device="meta"))
            found = _derive_peak_memory(shapes, maps, image.to("meta"))
            _check(model, maps, image, found, seed)
        except Exception:  # a forward pass that reads values, or chooses the device of its tensors
            found = _derive_peak_memory(model, maps, image)
            _check(model, maps, image, found, seed)
    return found


def measure_peak(model: nn.Module, image: Tensor) -> int:
    """Measure the peak activation bytes of one forward pass of `image`, (1, ...)."""
    with use_eval_mode(model):
        return trace_lifetimes(model, image).peak


def trace_lifetimes(model: nn.Module, image: Tensor) -> Lifetimes:
    """Record the tensors of one forward pass of `image`, (1, ...)."""
    tracker = _StorageTracker(image)
    with torch.inference_mode(), tracker:
        model(image)
    return Lifetimes(tuple(tracker.sizes), tuple(tracker.live))


class _StorageTracker(EagerMode):
    """Tracks storages from the operation that makes them to the end of their last reference."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: list[int] = []
        self.live: list[tuple[int, ...]] = []
        self._alive: dict[int, tuple[int, StorageWeakRef]] = {}  # by the storage's address
        self._foreign: set[int] = set()  # weights, buffers and constants, which are not counted
        self._record_storage(image)
        self._image = image  # the caller of the network keeps the image alive

    def __torch_dispatch__(
        self, func: Callable[..., object], types: object, args: tuple[Any, ...] = (), kwargs: object = None
    ) -> object:
        keywords = kwargs if isinstance(kwargs, dict) else {}
        for tensor in tree_leaves((args, keywords)):
            if isinstance(tensor, Tensor) and (address := tensor.untyped_storage()._cdata) not in self._alive:
                self._foreign.add(address)
        out = torch.empty_like(args[0]) if _is_meta_batch_norm(func, args) else func(*args, **keywords)
        before = len(self.sizes)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._record_storage(tensor)
        if len(self.sizes) > before:
            self._alive = {key: item for key, item in self._alive.items() if not item[1].expired()}  # type: ignore[no-untyped-call]
            self.live.append(tuple(sorted(number for number, _ in self._alive.values())))
        return out

    def _record_storage(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address in self._foreign or address in self._alive:
            return
        self._alive[address] = (len(self.sizes), StorageWeakRef(storage))  # type: ignore[no-untyped-call]
        self.sizes.append(storage.nbytes())


def _is_meta_batch_norm(func: object, args: tuple[Any, ...]) -> bool:
    """Return True for batch-norm at inference on a tensor without values: its output has the shape of its input.

    Torch computes this case in Python, which would take most of the time of a DenseNet.
    """
    return (
        func is torch.ops.aten.batch_norm.default
        and isinstance(args[0], Tensor)
        and args[0].device.type == "meta"
        and not args[5]
    )


def _derive_peak_memory(model: nn.Module, maps: IndexMaps, image: Tensor) -> PeakMemory:
    dense = trace_lifetimes(model, image)
    dense_sizes = np.array(dense.sizes, dtype=np.int64)
    per_channel = np.zeros((len(dense_sizes), len(maps.groups)), dtype=np.int64)
    for group, (start, size) in enumerate(zip(maps.offsets[:-1], maps.sizes, strict=True)):
        if size < 2:  # a group of one channel is never cut
            continue
        cut = maps.make_unpruned_cut()
        cut[start] = False
        narrower = trace_lifetimes(narrow(model, maps, cut), image)
        if narrower.live != dense.live:
            raise TraceError(
                f"a memory budget is not possible: {type(model).__name__} makes other tensors when "
                f"{maps.groups[group].name} is narrower; leave out budget.memory"
            )
        per_channel[:, group] = dense_sizes - narrower.sizes
    fixed = dense_sizes - per_channel @ maps.sizes
    live = np.zeros((len(dense.live), len(dense_sizes)), dtype=np.int64)
    for event, numbers in enumerate(dense.live):
        live[event, list(numbers)] = 1
    return _drop_dominated(PeakMemory(live @ fixed, live @ per_channel), maps.sizes)


def _drop_dominated(memory: PeakMemory, sizes: NDArray[np.int64]) -> PeakMemory:
    """Drop operations after which the live bytes never exceed those after some other operation, for any cut."""
    kept: list[int] = []
    # at one channel per group, then per channel: a sum that is smaller in all of these is never the largest
    terms = np.column_stack([memory.base + memory.slope.sum(axis=1), memory.slope])
    for event in np.argsort(-(memory.base + memory.slope @ sizes), kind="stable"):
        if not any((terms[other] >= terms[event]).all() for other in kept):
            kept.append(int(event))
    return PeakMemory(memory.base[kept], memory.slope[kept])


def _check(model: nn.Module, maps: IndexMaps, image: Tensor, memory: PeakMemory, seed: int) -> None:
    """Raise TraceError unless `memory` is right for a random cut that really runs."""
    cut: Cut = np.random.default_rng(seed).random(maps.channels) < 0.5
    for start, size in zip(maps.offsets[:-1], maps.sizes, strict=True):
        cut[start : start + min(2, size)] = True
    predicted = int(memory(maps.count_kept(cut)))
    measured = trace_lifetimes(narrow(model, maps, cut), image).peak
    if predicted != measured:
        raise TraceError(
            f"a memory budget is not possible: a cut of {type(model).__name__} takes {measured:,} bytes of activations "
            f"but its widths predict {predicted:,}; leave out budget.memory"
        )
