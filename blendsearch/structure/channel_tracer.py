"""Channel tracing: every element of every activation carries the label of its channel.

A layer that makes channels labels its output. Operations that move elements move their labels in the same way.
Elementwise operations unite the labels that meet in them. A layer that reads channels records the label of each
position. The effect of an operation on channels is thus found by executing it: reshapes, shuffles and concatenations
need no special rules. An unknown operation freezes its inputs: this is safe, but fewer channels can be pruned.
"""

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from blendsearch.structure.eager_mode import EagerMode
from blendsearch.structure.labels import (
    Labels,
    collapse,
    compact,
    expand_labels,
    find_varying_dims,
    is_flat,
    list_distinct,
)
from blendsearch.structure.union_find import NO_CHANNEL, UnionFind
from blendsearch.zoo.shortcut import PaddedShortcut

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED_CONVOLUTIONS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
MAKERS = (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS, nn.Linear)
PER_CHANNEL_LAYERS = (nn.modules.batchnorm._BatchNorm, nn.PReLU)
PER_CHANNEL_TENSORS = ("weight", "bias", "running_mean", "running_var")
LEAVES = (*MAKERS, *PER_CHANNEL_LAYERS, PaddedShortcut)

IDENTITY_OPS = {"clone", "_to_copy", "alias", "detach", "lift_fresh", "native_dropout", "dropout"}
LIKE_OPS = {"empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like"}
NEW_OPS = {"new_empty", "new_zeros", "new_ones", "new_full"}
VIEW_OPS = {"view", "_unsafe_view", "_reshape_alias"}
MOVE_OPS = {
    *("transpose", "t", "permute", "squeeze", "unsqueeze", "expand"),
    *("slice", "select", "split", "split_with_sizes", "unbind", "roll", "flip", "index_select"),
}
POOLING_OPS = {
    *("max_pool2d_with_indices", "max_pool2d", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d"),
    *("max_pool3d_with_indices", "avg_pool3d", "_adaptive_avg_pool3d", "reflection_pad2d", "replication_pad2d"),
    *("upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d"),
}
POINTWISE_OPS = {"hardswish", "hardsigmoid", "prelu", "bernoulli"}  # pointwise, but without the tag
REDUCTION_OPS = {"mean", "sum", "amax", "amin", "var", "std"}

Side = Literal["out", "in"]


@dataclass(frozen=True, eq=False)
class _Operation:
    """One call of a torch operation.

    `name` is without namespace, and without the underscore of in-place operations. `location` is for messages.
    """

    func: Any
    name: str
    location: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]


class ChannelTracer(EagerMode):
    """Traces the channels of `model`.

    Attributes
    ----------
    union_find: all labels, their coupling, and why some of them cannot be cut.
    tensor_labels: for each (tensor, its module, dimension, side) the label of each position, or ``NO_CHANNEL``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.union_find = UnionFind()
        self.tensor_labels: dict[tuple[str, str, int, Side], NDArray[np.int64]] = {}
        self._model = model
        self._names = {id(tensor): name for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
        # of tensors with at least one label that is not FIXED
        self._labels: MutableMapping[Tensor, Labels] = WeakTensorKeyDictionary()
        self._module_stack: list[str] = []
        self._leaf_depth = 0
        self._output_labels: dict[str, NDArray[np.int64]] = {}
        self._used_elsewhere: set[str] = set()
        self._leaf_tensors = {
            id(tensor)
            for module in model.modules()
            if isinstance(module, LEAVES)
            for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        }
        for name, parameter in model.named_parameters():
            wide = [dim for dim, size in enumerate(parameter.shape) if size > 1]
            if id(parameter) not in self._leaf_tensors and len(wide) == 1:  # for example, a scale per channel
                labels = self._record_labels(name, wide[0], "out", self.union_find.add_labels(parameter.shape[wide[0]]))
                self._set_labels(parameter, expand_labels(labels, wide[0], parameter.shape))

    @property
    def location(self) -> str:
        """Name of the module whose forward pass is running."""
        inside = self._module_stack[-1] if self._module_stack else ""
        return inside or type(self._model).__name__

    def trace(self, example: Tensor) -> None:
        """Run the model, which must be in evaluation mode. The channels of its outputs are frozen."""
        self._run(example)
        evaluated = self.union_find.count
        blocks = [module for module in self._model.modules() if any(True for _ in module.children())]
        buffers = [(buffer, buffer.clone()) for buffer in self._model.buffers()]
        try:  # again in training mode, where auxiliary classifiers read channels too
            for module in blocks:
                module.training = True
            self._run(example)
        except Exception:  # training mode may need more than one image
            self._module_stack, self._leaf_depth = [], 0
        finally:
            for module in blocks:
                module.training = False
            for buffer, before in buffers:  # user-defined blocks may update statistics
                buffer.copy_(before)
        self.union_find.freeze(torch.arange(evaluated, self.union_find.count), "it runs in training only")
        for (tensor, *_), labels in self.tensor_labels.items():
            if tensor in self._used_elsewhere:
                self.union_find.freeze(torch.from_numpy(labels), f"{tensor} is also used outside its layer")

    def _run(self, example: Tensor) -> None:
        with self._register_hooks(), torch.no_grad(), self:
            output = self._model(example)
        self._freeze(_list_tensors(output), "its channels are the network's output")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, object] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if not self._leaf_depth:
            self._trace_operation(func, args, kwargs or {}, output)
        return output

    # Between the layers

    def _trace_operation(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, object], output: Any) -> None:
        inputs, outputs = _list_tensors((args, kwargs)), _list_tensors(output)
        self._used_elsewhere |= {self._names[id(tensor)] for tensor in inputs if id(tensor) in self._leaf_tensors}
        labelled = [tensor for tensor in inputs if tensor in self._labels]
        if not labelled or not outputs:
            return
        name = func._schema.name.partition("::")[2]
        location = f"{name} in {self.location}"
        if func._schema.is_mutable:
            name = name.rstrip("_")
            if args[0].untyped_storage().nbytes() > args[0].numel() * args[0].element_size():
                self._freeze(inputs, f"{location} writes into a part of a tensor")
                return
        operation = _Operation(func, name, location, args, kwargs, inputs, outputs)
        single = len(labelled) == 1 and args[0] is labelled[0]
        handler = SINGLE_INPUT_HANDLERS.get(name) if single else None
        if handler is None and torch.Tag.pointwise in func.tags:
            handler = ChannelTracer._unite_inputs
        (handler or HANDLERS.get(name, ChannelTracer._freeze_inputs))(self, operation)

    def _freeze_inputs(self, operation: _Operation) -> None:
        self._freeze(operation.inputs, f"{operation.location} reads all its channels at once")

    def _copy_labels(self, operation: _Operation) -> None:
        self._set_labels(operation.outputs[0], self._get_labels(operation.args[0]))

    def _move(self, operation: _Operation) -> None:
        before = self._get_labels(operation.args[0])
        if operation.func._schema.name.partition("::")[2] in VIEW_OPS:
            moved = [before.reshape(operation.outputs[0].shape)]
        else:
            moved = _list_tensors(operation.func(before, *operation.args[1:], **operation.kwargs))
        moved = [compact(labels) for labels in moved]
        for labels in moved:
            # widths in a reshape or split are mostly constants in the code, which do not change with a cut
            if len(find_varying_dims(labels)) > len(find_varying_dims(before)) or not torch.equal(
                list_distinct(labels), list_distinct(before)
            ):
                self.union_find.freeze(before, f"{operation.location} splits or reorders its channels")
        for tensor, labels in zip(operation.outputs, moved, strict=True):
            self._set_labels(tensor, labels)

    def _make_like(self, operation: _Operation) -> None:
        """Label a new tensor as wide as its input, which took its sizes from there; noise of a dropout, for example."""
        tensor, output = operation.args[0], operation.outputs[0]
        labels = collapse(self._get_labels(tensor))
        if output.ndim == tensor.ndim and all(
            output.shape[dim] == labels.shape[dim] for dim in find_varying_dims(labels)
        ):
            self._set_labels(output, labels.expand(output.shape))

    def _concatenate(self, operation: _Operation) -> None:
        args, output = operation.args, operation.outputs[0]
        dim = args[1] if len(args) > 1 else operation.kwargs.get("dim", 0)
        parts = [self._get_labels(tensor) for tensor in args[0] if tensor.ndim == output.ndim]
        for other in range(output.ndim):
            if other != dim % output.ndim and all(is_flat(part, other) for part in parts):
                parts = [part.narrow(other, 0, 1) for part in parts]  # one slice represents all
        joined = torch.cat(parts, dim)
        self._set_labels(output, compact(joined.expand(output.shape)))

    def _pad(self, operation: _Operation) -> None:
        """Label padding as NO_CHANNEL. Padded pixels do not change the labels of channels."""
        (tensor, pads), output = operation.args[:2], operation.outputs[0]
        labels = self._get_labels(tensor)
        widths = list(pads)
        for number in range(len(pads) // 2):
            dim = labels.ndim - 1 - number
            if is_flat(labels, dim):
                labels = labels.narrow(dim, 0, 1)
                widths[2 * number : 2 * number + 2] = (0, 0)
        self._set_labels(output, compact(nn.functional.pad(labels, widths, value=NO_CHANNEL).expand(output.shape)))

    def _pool(self, operation: _Operation) -> None:
        labels = self._get_labels(operation.args[0])
        if any(dim >= 2 for dim in find_varying_dims(labels)):
            self._freeze_inputs(operation)
            return
        kept = labels.flatten(2)[:, :, :1]
        for tensor in operation.outputs:
            self._set_labels(tensor, kept.reshape(*kept.shape[:2], *[1] * (tensor.ndim - 2)).expand(tensor.shape))

    def _unite_inputs(self, operation: _Operation) -> None:
        """Unite the labels at the same position of the inputs of an elementwise operation."""
        output, location = operation.outputs[0], operation.location
        shape = output.shape
        spread = [(tensor, self._get_labels(tensor).expand(shape)) for tensor in operation.inputs]
        varying = {dim for _, labels in spread for dim in find_varying_dims(labels)}
        united: list[Tensor] = []
        for tensor, labels in spread:
            size = (1,) * (len(shape) - tensor.ndim) + tuple(tensor.shape)
            if any(size[dim] == 1 for dim in varying):  # a mask for all channels, or a scalar
                self._freeze([tensor], f"{location} broadcasts it over the channels of another layer")
            else:
                united.append(labels)
        first = next((labels for labels in united if bool((collapse(labels) != NO_CHANNEL).any())), None)
        for labels in united:
            if first is not None and labels is not first:
                flat = [dim for dim in range(len(shape)) if is_flat(first, dim) and is_flat(labels, dim)]
                self.union_find.unite(collapse(first, flat), collapse(labels, flat), location)
        self._set_labels(output, torch.full((), NO_CHANNEL).expand(shape) if first is None else first)

    def _reduce(self, operation: _Operation) -> None:
        if len(operation.args) < 2:
            self._freeze_inputs(operation)
            return
        (tensor, axes), output = operation.args[:2], operation.outputs[0]
        labels = self._get_labels(tensor)
        axes = [axes] if isinstance(axes, int) else axes or range(tensor.ndim)
        dims = sorted({dim % tensor.ndim for dim in axes}, reverse=True)
        if set(dims) & set(find_varying_dims(labels)):
            self._freeze([tensor], f"{operation.location} reads all its channels at once")
            return
        for dim in dims:
            labels = labels.narrow(dim, 0, 1) if output.ndim == tensor.ndim else labels.select(dim, 0)
        self._set_labels(output, labels)

    # Layers

    def _trace_layer(self, name: str, module: nn.Module, inputs: Tensor, output: Tensor) -> None:
        dim = inputs.ndim - 1 if isinstance(module, nn.Linear) else 1
        labels = self._get_labels(inputs)
        if set(find_varying_dims(labels)) - {dim} or not self._has_own_tensors(name, module):
            self._freeze([inputs], f"{name} does not read its input channel by channel")
            return
        read = labels.movedim(dim, 0).flatten(1)[:, 0].numpy()
        if isinstance(module, PER_CHANNEL_LAYERS):
            made = read
            if not (isinstance(module, nn.PReLU) and module.num_parameters == 1):
                for tensor in PER_CHANNEL_TENSORS:
                    if getattr(module, tensor, None) is not None:
                        self._record_labels(f"{name}.{tensor}", 0, "out", read)
        elif isinstance(module, PaddedShortcut):
            self._record_labels(f"{name}.links", 1, "in", read)
            made = self._make(name, f"{name}.links", 0, module.links.shape[0])
        else:
            made = self._trace_weights(name, module, read)
        self._set_labels(output, expand_labels(made, dim, output.shape))

    def _trace_weights(self, name: str, module: nn.Module, read: NDArray[np.int64]) -> NDArray[np.int64]:
        """Record the labels that a convolution or linear layer reads; return those of its output."""
        weight: Tensor = module.weight  # type: ignore[assignment]
        blocks = int(getattr(module, "groups", 1))
        out = 1 if isinstance(module, TRANSPOSED_CONVOLUTIONS) else 0
        if blocks > 1 and out == 1:
            self.union_find.freeze(torch.from_numpy(read), f"{name} is a transposed convolution in {blocks} groups")
            return np.full(weight.shape[1] * blocks, NO_CHANNEL, dtype=np.int64)
        made = self._make(name, f"{name}.weight", out, weight.shape[out])
        if blocks == 1:
            self._record_labels(f"{name}.weight", 1 - out, "in", read)
        else:  # all channels that a block of the convolution reads and makes are coupled
            reads, makes = torch.from_numpy(read).view(blocks, -1), torch.from_numpy(made).view(blocks, -1)
            for coupled in (reads, makes):
                location = f"{name}, a convolution in {blocks} groups,"
                self.union_find.unite(makes[:, :1].expand_as(coupled), coupled, location)
        if getattr(module, "bias", None) is not None:
            self._record_labels(f"{name}.bias", 0, "out", made)
        return made

    def _make(self, name: str, tensor: str, dim: int, width: int) -> NDArray[np.int64]:
        if name not in self._output_labels:  # a layer that is called again makes the same channels
            self._output_labels[name] = self._record_labels(tensor, dim, "out", self.union_find.add_labels(width))
        return self._output_labels[name]

    def _record_labels(self, tensor: str, dim: int, side: Side, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Record the labels of a tensor's positions; unite them with labels recorded before."""
        known = self.tensor_labels.setdefault((tensor, tensor.rpartition(".")[0], dim, side), labels)
        if known is not labels:
            self.union_find.unite(torch.from_numpy(known), torch.from_numpy(labels), f"{tensor}, used several times,")
        return labels

    def _has_own_tensors(self, name: str, module: nn.Module) -> bool:
        """Return False if a weight is shared with another layer, or computed from other tensors."""
        tensors = {key: getattr(module, key, None) for key in (*PER_CHANNEL_TENSORS, "links")}
        own = [(key, tensor) for key, tensor in tensors.items() if isinstance(tensor, Tensor)]
        return all(self._names.get(id(tensor)) == (f"{name}.{key}" if name else key) for key, tensor in own)

    @contextmanager
    def _register_hooks(self) -> Iterator[None]:
        handles = []
        for name, module in self._model.named_modules():
            leaf = isinstance(module, LEAVES)
            handles.append(module.register_forward_pre_hook(self._make_enter_hook(name, leaf)))
            handles.append(module.register_forward_hook(self._make_leave_hook(name, leaf)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _make_enter_hook(self, name: str, leaf: bool) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, inputs: Any) -> None:
            self._module_stack.append(name)
            self._leaf_depth += leaf

        return hook

    def _make_leave_hook(self, name: str, leaf: bool) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if leaf and self._leaf_depth == 1:
                if inputs:
                    self._trace_layer(name, module, inputs[0], output)
                else:
                    raise TypeError(f"{name} is called with keyword arguments only")
            self._leaf_depth -= leaf
            self._module_stack.pop()

        return hook

    # Labels of tensors

    def _get_labels(self, tensor: Tensor) -> Labels:
        labels: Tensor | None = self._labels.get(tensor)
        return torch.full((), NO_CHANNEL).expand(tensor.shape) if labels is None else labels

    def _set_labels(self, tensor: Tensor, labels: Labels) -> None:
        if bool((collapse(labels) != NO_CHANNEL).any()):
            self._labels[tensor] = labels
        else:
            self._labels.pop(tensor, None)

    def _freeze(self, tensors: Sequence[Tensor], reason: str) -> None:
        for tensor in tensors:
            self.union_find.freeze(collapse(self._get_labels(tensor)), reason)


_Handler = Callable[[ChannelTracer, _Operation], None]

SINGLE_INPUT_HANDLERS: dict[str, _Handler] = {
    **dict.fromkeys(IDENTITY_OPS | LIKE_OPS, ChannelTracer._copy_labels),
    **dict.fromkeys(NEW_OPS, ChannelTracer._make_like),
    **dict.fromkeys(VIEW_OPS | MOVE_OPS, ChannelTracer._move),
}
"""Handlers of operations whose first argument is their only labelled input."""

HANDLERS: dict[str, _Handler] = {
    "cat": ChannelTracer._concatenate,
    "constant_pad_nd": ChannelTracer._pad,
    **dict.fromkeys(POINTWISE_OPS, ChannelTracer._unite_inputs),
    **dict.fromkeys(POOLING_OPS, ChannelTracer._pool),
    **dict.fromkeys(REDUCTION_OPS, ChannelTracer._reduce),
}
"""Handlers of other operations without the tag `pointwise`."""


def _list_tensors(tree: object) -> list[Tensor]:
    if not isinstance(tree, dict | Tensor) and hasattr(tree, "values"):  # an output of a custom class
        tree = list(tree.values())
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
