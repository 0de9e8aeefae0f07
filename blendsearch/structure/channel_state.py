"""Labels of the tensors of a network while its channels are traced."""

from collections.abc import Iterator, MutableMapping, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from blendsearch.structure.labels import Labels, collapse, expand_labels, find_varying_dims, get_vector
from blendsearch.structure.layer_types import LEAVES
from blendsearch.structure.reached import ReachRecord
from blendsearch.structure.reduction_calls import CallCounter
from blendsearch.structure.size_attributes import SEQUENCES
from blendsearch.structure.union_find import NO_CHANNEL, UnionFind

Side = Literal["out", "in", "size", "cost", "statistic"]


class ChannelState:
    """Labels of tensors, their coupling, and the module whose forward pass is running.

    Attributes
    ----------
    union_find: all labels, their coupling, and why some of them cannot be cut.
    tensor_labels: for each (tensor, its module, dimension, side) the label of each position, or ``NO_CHANNEL``. With
        the side ``size``, the tensor is an integer attribute of the module, with a position for each unit. With
        ``statistic``, it is a call that reduces channels, with a position for each (`structure.channel_statistics`).
    products: the multiply-accumulates per channel of products of activations, by the name of their labels, which have
        the side ``cost``.
    reached: layers that the examples reach.
    """

    def __init__(self, model: nn.Module) -> None:
        self.union_find = UnionFind()
        self.tensor_labels: dict[tuple[str, str, int, Side], NDArray[np.int64]] = {}
        self.reached = ReachRecord(model)
        self._model = model
        self._names = {id(tensor): name for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
        # of tensors with at least one label that is not FIXED
        self._labels: MutableMapping[Tensor, Labels] = WeakTensorKeyDictionary()
        self.products: dict[str, int] = {}
        self.counts_products = True
        self._fresh: MutableMapping[Tensor, bool] = WeakTensorKeyDictionary()
        self.calls = CallCounter()
        self._positions: MutableMapping[Tensor, tuple[Labels, str]] = WeakTensorKeyDictionary()
        self._plain = {
            id(value): f"{name}.{attribute}" if name else attribute
            for name, module in model.named_modules()
            for attribute, value in vars(module).items()
            if isinstance(value, Tensor)
        }
        self._module_stack: list[tuple[str, nn.Module]] = []
        self._leaf_tensors = {
            id(tensor)
            for module in model.modules()
            if isinstance(module, LEAVES)
            for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        }
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            wide = [dim for dim, size in enumerate(tensor.shape) if size > 1]
            is_scale = tensor.is_floating_point() or tensor.dtype == torch.bool
            if id(tensor) not in self._leaf_tensors and len(wide) == 1 and is_scale:
                self._label_tensor(name, tensor, wide[0])  # for example, a scale per channel

    @property
    def module_name(self) -> str:
        """Name of the module whose forward pass is running, empty for the network."""
        return self._module_stack[-1][0] if self._module_stack else ""

    @property
    def location(self) -> str:
        """Name of the module whose forward pass is running."""
        return self.module_name or type(self._model).__name__

    def _record_labels(self, tensor: str, dim: int, side: Side, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Record the labels of a tensor's positions; unite them with labels recorded before."""
        known = self.tensor_labels.setdefault((tensor, tensor.rpartition(".")[0], dim, side), labels)
        if known is not labels:
            self.union_find.unite(torch.from_numpy(known), torch.from_numpy(labels), f"{tensor}, used several times,")
        return labels

    def is_running(self, kind: type[nn.Module]) -> bool:
        """Return True if the forward pass of a module of this kind is running."""
        return bool(self._module_stack) and isinstance(self._module_stack[-1][1], kind)

    def find_plain_name(self, tensor: Tensor) -> str:
        """Return the name of an attribute that holds `tensor`, or what it is a view of; empty for other tensors."""
        return self._plain.get(id(tensor), "") or self._plain.get(id(tensor._base), "")

    # Labels of tensors

    def has_labels(self, tensor: Tensor) -> bool:
        """Return True if some position of `tensor` belongs to a channel."""
        return tensor in self._labels

    def get_labels(self, tensor: Tensor) -> Labels:
        """Return the labels of `tensor`, NO_CHANNEL everywhere if it has none."""
        labels: Tensor | None = self._labels.get(tensor)
        return torch.full((), NO_CHANNEL).expand(tensor.shape) if labels is None else labels

    def set_labels(self, tensor: Tensor, labels: Labels) -> None:
        """Set the labels of a tensor; one without elements has none."""
        if tensor.numel() and bool((collapse(labels) != NO_CHANNEL).any()):
            self._labels[tensor] = labels
        else:
            self._labels.pop(tensor, None)

    def add_fresh_tensor(self, tensor: Tensor) -> None:
        """Note that a tensor was made from sizes in the code."""
        self._fresh[tensor] = True

    def is_fresh(self, tensor: Tensor) -> bool:
        """Return True for a tensor that was made from sizes in the code."""
        return tensor in self._fresh

    def freeze(self, tensors: Sequence[Tensor], reason: str) -> None:
        """Freeze all labels of `tensors`."""
        for tensor in tensors:
            self.union_find.freeze(collapse(self.get_labels(tensor)), reason)

    def unite_along(self, labels: Labels, dim: int, location: str) -> NDArray[np.int64]:
        """Unite the labels of each position along `dim`; return one label of each."""
        rows = collapse(labels, [other for other in range(labels.ndim) if other != dim]).movedim(dim, 0).flatten(1)
        if rows.shape[1] > 1:
            self.union_find.unite(rows[:, :1].expand_as(rows), rows, location)
        return rows[:, 0].numpy()

    def canonicalize(self, labels: Labels) -> Labels:
        """Return labels with each replaced by the lowest of its class."""
        return self.union_find.canonicalize(collapse(labels)).expand(labels.shape)

    def label_free_tensor(self, tensor: Tensor, others: Sequence[Labels]) -> None:
        """Label a parameter or buffer of no layer along the dimension in which the labels of `others` vary most.

        A position embedding, for example, gets the labels of the channels that it is added to.
        """
        name = self._names.get(id(tensor))
        if name is None or id(tensor) in self._leaf_tensors or tensor in self._labels:
            return
        counts: dict[int, int] = {}
        for labels in others:
            offset = labels.ndim - tensor.ndim
            for dim in find_varying_dims(labels):
                if dim >= offset and tensor.shape[dim - offset] > 1:
                    distinct = len(torch.unique(labels.movedim(dim, 0).flatten(1)[:, -1]))
                    counts[dim - offset] = max(counts.get(dim - offset, 0), distinct)
        if counts and tensor.is_floating_point():
            self._label_tensor(name, tensor, max(counts, key=lambda dim: counts[dim]))

    def label_filters(self, tensor: Tensor) -> Labels | None:
        """Return the labels of a parameter or buffer of no layer along its first dimension; None for other tensors."""
        name = self._names.get(id(tensor))
        if name is None or id(tensor) in self._leaf_tensors:
            return None
        if tensor not in self._labels:
            self._label_tensor(name, tensor, 0)
        vector = get_vector(self._labels[tensor])
        return vector[1] if vector is not None and vector[0] == 0 else None

    def _label_tensor(self, name: str, tensor: Tensor, dim: int) -> None:
        labels = self._record_labels(name, dim, "out", self.union_find.add_labels(tensor.shape[dim]))
        self.set_labels(tensor, expand_labels(labels, dim, tensor.shape))

    # Sizes in the code

    def has_size(self, size: int, part: str) -> bool:
        """Return True if the running module has an integer attribute of this size with `part` in its name."""
        return any(part in name for name in self._list_sizes(size))

    def record_sizes(self, size: int, labels: Tensor, parts: Sequence[str] = ("",)) -> None:
        """Let attributes of the running module that are `size`, or a tuple of it, follow a cut of `labels`, (size,).

        Their names hold one of `parts`.
        """
        for name in [name for name in self._list_sizes(size) if any(part in name for part in parts)]:
            owner = self._module_stack[-1][0]
            self._record_labels(f"{owner}.{name}" if owner else name, 0, "size", labels.numpy())

    def record_parts(self, sizes: Sequence[int], parts: Sequence[Tensor]) -> bool:
        """Let items of lists that are `sizes` follow cuts of `parts`, the labels of each; return False for no list."""
        names = list(self._list_sequences(sizes))
        for name in names:
            for place, labels in enumerate(parts):
                self._record_item(name, place, labels)
        return bool(names)

    def record_shape(self, shape: Sequence[int], dim: int, labels: Tensor) -> None:
        """Let items of lists that are the last sizes of `shape` follow a cut of `labels`, those along `dim`."""
        for count in range(2, len(shape) + 1):
            place = dim - len(shape) + count
            for name in self._list_sequences(shape[-count:]) if place >= 0 else ():
                self._record_item(name, place, labels)

    def _list_sequences(self, sizes: Sequence[int]) -> Iterator[str]:
        """List the lists and tuples of the running module that hold `sizes`, or -1 in place of some."""
        module = self._module_stack[-1][1] if self._module_stack else None
        for name, value in ({} if module is None else vars(module)).items():
            if isinstance(value, SEQUENCES) and len(value) == len(sizes) and not name.startswith("_"):
                pairs = zip(value, sizes, strict=True)
                if all(type(item) is int and item in (size, -1) for item, size in pairs):
                    yield name

    def _record_item(self, name: str, place: int, labels: Tensor) -> None:
        owner, module = self._module_stack[-1]
        if vars(module)[name][place] == len(labels):
            self._record_labels(f"{owner}.{name}[{place}]".lstrip("."), 0, "size", labels.numpy())

    def record_product(self, location: str, macs: int, labels: Tensor) -> None:
        """Record the multiply-accumulates per channel of a product of activations, in the first run only."""
        if self.counts_products and macs:
            name = f"{location} ({len(self.products)})"
            self.products[name] = macs
            self._record_labels(name, 0, "cost", labels.numpy())

    def record_statistic(self, name: str, labels: Tensor) -> None:
        """Record a call that reduces channels with `labels`, (C,)."""
        known = self.tensor_labels.get((name, name.rpartition(".")[0], 0, "statistic"))
        if known is not None and known.shape != labels.shape:  # the inputs differ between passes
            self.union_find.freeze(labels, f"{name} reduces changing numbers of channels")
            return
        self._record_labels(name, 0, "statistic", labels.numpy())

    def add_positions(self, tensor: Tensor, labels: Labels, location: str) -> None:
        """Note that `tensor` holds positions of channels, which a cut changes."""
        self._positions[tensor] = labels, location

    def freeze_positions(self, tensors: Sequence[Tensor]) -> None:
        """Freeze the channels whose positions some of `tensors` hold."""
        for labels, location in [self._positions[tensor] for tensor in tensors if tensor in self._positions]:
            self.union_find.freeze(collapse(labels), f"{location} gives positions of channels")

    def _list_sizes(self, size: int) -> list[str]:
        module = self._module_stack[-1][1] if self._module_stack else None
        sizes: list[object] = [size]
        if getattr(module, "weight", None) is None:  # with a weight, its shape sets that of a normalisation
            sizes.append((size,))
        return [
            name
            for name, value in ({} if module is None else vars(module)).items()
            if type(value) in (int, tuple) and value in sizes and not name.startswith("_") and not _is_head_width(name)
        ]

    def _record_activation(self, tensor: Tensor) -> None:
        labels = self._labels.get(tensor)
        if labels is not None:
            self.reached.add_activation(self._module_stack[-1][0] if self._module_stack else "", labels)


def _is_head_width(name: str) -> bool:
    """Return True for the name of an attribute that holds the width of one head, which no cut changes."""
    return "head" in name and any(part in name for part in ("dim", "size", "width", "channel"))
