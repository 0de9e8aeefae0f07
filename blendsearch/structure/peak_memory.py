"""Peak activation memory of any cut: exact, from watching which tensors of a forward pass live at the same time.

What counts, in bytes: every tensor that one forward pass of one float32 image makes, and the image itself, from the
operation that makes it to the moment nothing holds it any more; a tensor changed in place or viewed counts once. What
does not: weights and buffers, and the scratch space that a kernel takes and gives back while it runs. An operation's
inputs and outputs live at the same time, so the peak always stands right after some operation.

A cut changes how large these tensors are, never when they live: each is as large as a constant plus so many bytes per
kept channel of each group. So after every operation the live bytes are linear in the counts, and the peak is the
largest of these sums.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from blendsearch.errors import TraceError
from blendsearch.structure.eval_mode import use_eval_mode
from blendsearch.structure.groups import Cut, IndexMaps
from blendsearch.structure.surgery import copy_with_tensors, narrow


@dataclass(frozen=True, eq=False)
class PeakMemory:
    """Peak activation bytes as the largest of linear functions of the kept channels.

    Attributes
    ----------
    base, slope: (E,) and (E, groups): after operation e there live base[e] + slope[e] @ counts bytes.
    """

    base: NDArray[np.int64]
    slope: NDArray[np.int64]

    def __call__(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bytes of kept channels per group: (..., groups) -> (...)."""
        return np.asarray((counts @ self.slope.T + self.base).max(axis=-1))


@dataclass(frozen=True)
class Lifetimes:
    """The tensors of one forward pass, numbered in the order they were made.

    `sizes` holds their bytes, `live` for each operation that made a tensor the numbers of those alive right after it.
    """

    sizes: tuple[int, ...]
    live: tuple[tuple[int, ...], ...]

    @property
    def peak(self) -> int:
        """The most bytes alive at once."""
        return max(sum(self.sizes[number] for number in together) for together in self.live)


def trace_peak_memory(
    model: nn.Module, maps: IndexMaps, input_shape: tuple[int, int, int], seed: int = 0
) -> PeakMemory:
    """Find the peak memory of every cut of `model`, on the CPU, for one image of shape (channels, height, width).

    The bytes per channel come from one forward pass for each group, with one channel of it gone; of shapes alone where
    the network can do without values, which takes milliseconds. What was found is then held against a random cut that
    really runs. Raises TraceError when the tensors' sizes are not linear in the widths, or their lifetimes change.
    """
    with use_eval_mode(model):
        image = torch.zeros(1, *input_shape)
        try:
            shapes = copy_with_tensors(model, lambda tensor: torch.empty_like(tensor, device="meta"))
            found = _derive_peak_memory(shapes, maps, image.to("meta"))
            _check(model, maps, image, found, seed)
        except Exception:  # a forward pass that looks at values, or makes tensors on a device of its own choice
            found = _derive_peak_memory(model, maps, image)
            _check(model, maps, image, found, seed)
    return found


def measure_peak(model: nn.Module, image: Tensor) -> int:
    """Peak activation bytes of one forward pass of `image`, shape (1, ...), of a network as it is."""
    with use_eval_mode(model):
        return trace_lifetimes(model, image).peak


def trace_lifetimes(model: nn.Module, image: Tensor) -> Lifetimes:
    """Watch one forward pass of `image`, shape (1, ...)."""
    watch = _StorageTracker(image)
    with torch.inference_mode(), watch:
        model(image)
    return Lifetimes(tuple(watch.sizes), tuple(watch.live))


class _StorageTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows storages from the operation that makes them to the end of their last reference."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: list[int] = []
        self.live: list[tuple[int, ...]] = []
        self._alive: dict[int, tuple[int, StorageWeakRef]] = {}  # by the storage's address, taken as long as watched
        self._foreign: set[int] = set()  # weights, buffers, constants: there before, so not made here
        self._record_storage(image)
        self._image = image  # whoever calls the network holds the image

    def __torch_dispatch__(
        self, func: Callable[..., object], types: object, args: tuple[Any, ...] = (), kwargs: object = None
    ) -> object:
        given = kwargs if isinstance(kwargs, dict) else {}
        for tensor in tree_leaves((args, given)):
            if isinstance(tensor, Tensor) and (address := tensor.untyped_storage()._cdata) not in self._alive:
                self._foreign.add(address)
        out = torch.empty_like(args[0]) if _is_meta_batch_norm(func, args) else func(*args, **given)
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
    """Whether this is batch-norm at inference of a tensor without values: its output is like its input.

    Torch works that out in Python, which takes longer than normalising would: most of the time of a DenseNet.
    """
    return (
        func is torch.ops.aten.batch_norm.default
        and isinstance(args[0], Tensor)
        and args[0].device.type == "meta"
        and not args[5]
    )


def _derive_peak_memory(model: nn.Module, maps: IndexMaps, image: Tensor) -> PeakMemory:
    dense = trace_lifetimes(model, image)
    whole = np.array(dense.sizes, dtype=np.int64)
    per_channel = np.zeros((len(whole), len(maps.groups)), dtype=np.int64)
    for group, (start, size) in enumerate(zip(maps.offsets[:-1], maps.sizes, strict=True)):
        if size < 2:  # a group of one channel is always whole
            continue
        cut = maps.make_unpruned_cut()
        cut[start] = False
        narrower = trace_lifetimes(narrow(model, maps, cut), image)
        if narrower.live != dense.live:
            raise TraceError(
                f"no memory budget can be kept: {type(model).__name__} makes other tensors when "
                f"{maps.groups[group].name} is narrower; leave out budget.memory"
            )
        per_channel[:, group] = whole - narrower.sizes
    fixed = whole - per_channel @ maps.sizes
    together = np.zeros((len(dense.live), len(whole)), dtype=np.int64)
    for event, numbers in enumerate(dense.live):
        together[event, list(numbers)] = 1
    return _drop_dominated(PeakMemory(together @ fixed, together @ per_channel), maps.sizes)


def _drop_dominated(memory: PeakMemory, sizes: NDArray[np.int64]) -> PeakMemory:
    """Without the operations after which never more lives than after some other one, whatever the cut."""
    kept: list[int] = []
    # at one channel per group and from there per channel: a sum that is smaller in all of these is never the largest
    terms = np.column_stack([memory.base + memory.slope.sum(axis=1), memory.slope])
    for event in np.argsort(-(memory.base + memory.slope @ sizes), kind="stable"):
        if not any((terms[other] >= terms[event]).all() for other in kept):
            kept.append(int(event))
    return PeakMemory(memory.base[kept], memory.slope[kept])


def _check(model: nn.Module, maps: IndexMaps, image: Tensor, memory: PeakMemory, seed: int) -> None:
    """Raise TraceError unless `found` is right for a random cut, which is really made and run."""
    cut: Cut = np.random.default_rng(seed).random(maps.channels) < 0.5
    for start, size in zip(maps.offsets[:-1], maps.sizes, strict=True):
        cut[start : start + min(2, size)] = True
    predicted = int(memory(maps.count_kept(cut)))
    real = trace_lifetimes(narrow(model, maps, cut), image).peak
    if predicted != real:
        raise TraceError(
            f"no memory budget can be kept: a cut of {type(model).__name__} takes {real:,} bytes of activations where "
            f"{predicted:,} follow from its widths; leave out budget.memory"
        )
