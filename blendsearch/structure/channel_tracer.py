"""Following channels through a network: every element of every activation carries the label of its channel.

A layer that makes channels labels its output; whatever moves elements moves their labels by the same operation; an
element-wise operation ties the labels that meet in it; a layer that reads channels writes down who stands where. What
an operation does to channels is thus found by doing it: reshapes, shuffles and concatenations need no theory of their
own. An operation that is not known here freezes what goes into it, which costs freedom and never correctness.
"""

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

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
POINTWISE_OPS = {"hardswish", "hardsigmoid", "prelu", "bernoulli"}  # those that lack the tag
REDUCTION_OPS = {"mean", "sum", "amax", "amin", "var", "std"}

Side = Literal["out", "in"]
Labels = Tensor
"""Integers, one per element of an activation; dimensions along which they do not vary have stride 0 or size 1."""


class ChannelTracer(TorchDispatchMode):
    """Follows the channels of `model`.

    Attributes
    ----------
    ties: every label, what it is tied to, and why it cannot be cut, if so.
    claims: for (tensor, its module, dimension, side) the label of each position, ``FIXED`` where it is no channel's.
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
            if id(parameter) not in self._leaf_tensors and len(wide) == 1:  # a scale per channel, say
                labels = self._record_labels(name, wide[0], "out", self.union_find.add_labels(parameter.shape[wide[0]]))
                self._set_labels(parameter, _expand_labels(labels, wide[0], parameter.shape))

    @property
    def location(self) -> str:
        """The module whose forward pass is running."""
        inside = self._module_stack[-1] if self._module_stack else ""
        return inside or type(self._model).__name__

    def trace(self, example: Tensor) -> None:
        """Run the model, which must be in evaluation mode; its outputs keep all their channels."""
        self._run(example)
        evaluated = self.union_find.count
        blocks = [module for module in self._model.modules() if any(True for _ in module.children())]
        buffers = [(buffer, buffer.clone()) for buffer in self._model.buffers()]
        try:  # once more as in training, where auxiliary classifiers read channels too
            for module in blocks:
                module.training = True
            self._run(example)
        except Exception:  # training may ask for more than an image
            self._module_stack, self._leaf_depth = [], 0
        finally:
            for module in blocks:
                module.training = False
            for buffer, before in buffers:  # a block of a person's own may keep statistics
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
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if not self._leaf_depth:
            self._trace_operation(func, args, kwargs or {}, output)
        return output

    # Between the layers

    def _trace_operation(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        inputs, outputs = _list_tensors((args, kwargs)), _list_tensors(output)
        self._used_elsewhere |= {self._names[id(tensor)] for tensor in inputs if id(tensor) in self._leaf_tensors}
        labelled = [tensor for tensor in inputs if tensor in self._labels]
        if not labelled or not outputs:
            return
        name = func._schema.name.partition("::")[2]
        where = f"{name} in {self.location}"
        if func._schema.is_mutable:
            name = name.rstrip("_")
            if args[0].untyped_storage().nbytes() > args[0].numel() * args[0].element_size():
                self._freeze(inputs, f"{where} writes into a part of a tensor")
                return
        single = len(labelled) == 1 and args[0] is labelled[0]
        if name in IDENTITY_OPS | LIKE_OPS and single:
            self._set_labels(outputs[0], self._get_labels(args[0]))
        elif name in NEW_OPS and single:
            self._make_like(args[0], outputs[0])
        elif name in (VIEW_OPS | MOVE_OPS) and single:
            self._move(func, args, kwargs, outputs, where)
        elif name == "cat":
            self._concatenate(args[0], args[1] if len(args) > 1 else kwargs.get("dim", 0), outputs[0])
        elif name == "constant_pad_nd":
            self._pad(args[0], args[1], outputs[0])
        elif torch.Tag.pointwise in func.tags or name in POINTWISE_OPS:
            self._unite_inputs(inputs, outputs[0], where)
        elif name in POOLING_OPS and all(dim < 2 for dim in _find_varying_dims(self._get_labels(args[0]))):
            kept = self._get_labels(args[0]).flatten(2)[:, :, :1]
            for tensor in outputs:
                self._set_labels(tensor, kept.reshape(*kept.shape[:2], *[1] * (tensor.ndim - 2)).expand(tensor.shape))
        elif name in REDUCTION_OPS and len(args) > 1:
            self._reduce(args[0], args[1], outputs[0], where)
        else:
            self._freeze(inputs, f"{where} sees all its channels at once")

    def _move(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: list[Tensor], location: str
    ) -> None:
        before = self._get_labels(args[0])
        if func._schema.name.partition("::")[2] in VIEW_OPS:
            moved = [before.reshape(outputs[0].shape)]
        else:
            moved = _list_tensors(func(before, *args[1:], **kwargs))
        moved = [_compact(labels) for labels in moved]
        for labels in moved:
            # the widths in a reshape or split are mostly numbers in the code: they would not follow a cut
            if len(_find_varying_dims(labels)) > len(_find_varying_dims(before)) or not torch.equal(
                _list_distinct(labels), _list_distinct(before)
            ):
                self.union_find.freeze(before, f"{location} splits or reorders its channels")
        for tensor, labels in zip(outputs, moved, strict=True):
            self._set_labels(tensor, labels)

    def _make_like(self, tensor: Tensor, output: Tensor) -> None:
        """A tensor as wide as another took its sizes from there: the noise of a dropout, for one."""
        labels = _collapse(self._get_labels(tensor))
        if output.ndim == tensor.ndim and all(
            output.shape[dim] == labels.shape[dim] for dim in _find_varying_dims(labels)
        ):
            self._set_labels(output, labels.expand(output.shape))

    def _concatenate(self, tensors: Sequence[Tensor], dim: int, output: Tensor) -> None:
        parts = [self._get_labels(tensor) for tensor in tensors if tensor.ndim == output.ndim]
        for other in range(output.ndim):
            if other != dim % output.ndim and all(_is_flat(part, other) for part in parts):
                parts = [part.narrow(other, 0, 1) for part in parts]  # one slice stands for all
        joined = torch.cat(parts, dim)
        self._set_labels(output, _compact(joined.expand(output.shape)))

    def _pad(self, tensor: Tensor, pads: Sequence[int], output: Tensor) -> None:
        """Padding channels adds some that are always there; padding pixels is no matter."""
        labels = self._get_labels(tensor)
        wanted = list(pads)
        for number in range(len(pads) // 2):
            dim = labels.ndim - 1 - number
            if _is_flat(labels, dim):
                labels = labels.narrow(dim, 0, 1)
                wanted[2 * number : 2 * number + 2] = (0, 0)
        self._set_labels(output, _compact(nn.functional.pad(labels, wanted, value=NO_CHANNEL).expand(output.shape)))

    def _unite_inputs(self, inputs: Sequence[Tensor], output: Tensor, location: str) -> None:
        """Element-wise: the labels that stand at one place must go together."""
        shape = output.shape
        spread = [(tensor, self._get_labels(tensor).expand(shape)) for tensor in inputs]
        varying = {dim for _, labels in spread for dim in _find_varying_dims(labels)}
        met: list[Tensor] = []
        for tensor, labels in spread:
            size = (1,) * (len(shape) - tensor.ndim) + tuple(tensor.shape)
            if any(size[dim] == 1 for dim in varying):  # a mask for all channels, or a number
                self._freeze([tensor], f"{location} spreads it over the channels of another layer")
            else:
                met.append(labels)
        first = next((labels for labels in met if bool((_collapse(labels) != NO_CHANNEL).any())), None)
        for labels in met:
            if first is not None and labels is not first:
                flat = [dim for dim in range(len(shape)) if _is_flat(first, dim) and _is_flat(labels, dim)]
                self.union_find.unite(_collapse(first, flat), _collapse(labels, flat), location)
        self._set_labels(output, torch.full((), NO_CHANNEL).expand(shape) if first is None else first)

    def _reduce(self, tensor: Tensor, axes: Any, output: Tensor, location: str) -> None:
        labels = self._get_labels(tensor)
        wanted = [axes] if isinstance(axes, int) else axes or range(tensor.ndim)
        dims = sorted({dim % tensor.ndim for dim in wanted}, reverse=True)
        if set(dims) & set(_find_varying_dims(labels)):
            self._freeze([tensor], f"{location} sees all its channels at once")
            return
        for dim in dims:
            labels = labels.narrow(dim, 0, 1) if output.ndim == tensor.ndim else labels.select(dim, 0)
        self._set_labels(output, labels)

    # Layers

    def _trace_layer(self, name: str, module: nn.Module, inputs: Tensor, output: Tensor) -> None:
        dim = inputs.ndim - 1 if isinstance(module, nn.Linear) else 1
        labels = self._get_labels(inputs)
        if set(_find_varying_dims(labels)) - {dim} or not self._has_own_tensors(name, module):
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
        self._set_labels(output, _expand_labels(made, dim, output.shape))

    def _trace_weights(self, name: str, module: nn.Module, read: NDArray[np.int64]) -> NDArray[np.int64]:
        """A convolution or linear layer that reads these labels; returns those of its output."""
        weight: Tensor = module.weight  # type: ignore[assignment]
        blocks = int(getattr(module, "groups", 1))
        out = 1 if isinstance(module, TRANSPOSED_CONVOLUTIONS) else 0
        if blocks > 1 and out == 1:
            self.union_find.freeze(torch.from_numpy(read), f"{name} is a transposed convolution in {blocks} groups")
            return np.full(weight.shape[1] * blocks, NO_CHANNEL, dtype=np.int64)
        made = self._make(name, f"{name}.weight", out, weight.shape[out])
        if blocks == 1:
            self._record_labels(f"{name}.weight", 1 - out, "in", read)
        else:  # a whole block of the convolution goes at once, with all that it reads and makes
            reads, makes = torch.from_numpy(read).view(blocks, -1), torch.from_numpy(made).view(blocks, -1)
            for tied in (reads, makes):
                self.union_find.unite(makes[:, :1].expand_as(tied), tied, f"{name}, a convolution in {blocks} groups,")
        if getattr(module, "bias", None) is not None:
            self._record_labels(f"{name}.bias", 0, "out", made)
        return made

    def _make(self, name: str, tensor: str, dim: int, width: int) -> NDArray[np.int64]:
        if name not in self._output_labels:  # a layer that is called again makes the same channels
            self._output_labels[name] = self._record_labels(tensor, dim, "out", self.union_find.add_labels(width))
        return self._output_labels[name]

    def _record_labels(self, tensor: str, dim: int, side: Side, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Write down whose the positions of a tensor are. Where they were others' before, both must go together."""
        known = self.tensor_labels.setdefault((tensor, tensor.rpartition(".")[0], dim, side), labels)
        if known is not labels:
            self.union_find.unite(torch.from_numpy(known), torch.from_numpy(labels), f"{tensor}, used several times,")
        return labels

    def _has_own_tensors(self, name: str, module: nn.Module) -> bool:
        """False where a weight is shared with another layer, or computed from other tensors."""
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
                    raise TypeError(f"{name} is called with keywords alone")
            self._leaf_depth -= leaf
            self._module_stack.pop()

        return hook

    # Labels of tensors

    def _get_labels(self, tensor: Tensor) -> Labels:
        labels: Tensor | None = self._labels.get(tensor)
        return torch.full((), NO_CHANNEL).expand(tensor.shape) if labels is None else labels

    def _set_labels(self, tensor: Tensor, labels: Labels) -> None:
        if bool((_collapse(labels) != NO_CHANNEL).any()):
            self._labels[tensor] = labels
        else:
            self._labels.pop(tensor, None)

    def _freeze(self, tensors: Sequence[Tensor], reason: str) -> None:
        for tensor in tensors:
            self.union_find.freeze(_collapse(self._get_labels(tensor)), reason)


def _list_tensors(tree: object) -> list[Tensor]:
    if not isinstance(tree, dict | Tensor) and hasattr(tree, "values"):  # an output that is a class of its own
        tree = list(tree.values())
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _expand_labels(labels: NDArray[np.int64], dim: int, shape: torch.Size) -> Labels:
    """`labels` along `dim`, the same everywhere else."""
    return torch.from_numpy(labels).reshape([-1 if other == dim else 1 for other in range(len(shape))]).expand(shape)


def _is_flat(labels: Labels, dim: int) -> bool:
    return labels.shape[dim] == 1 or labels.stride(dim) == 0


def _find_varying_dims(labels: Labels) -> list[int]:
    return [dim for dim in range(labels.ndim) if not _is_flat(labels, dim)]


def _collapse(labels: Labels, dims: Sequence[int] | None = None) -> Labels:
    """One slice of each of `dims`, by default of every dimension along which nothing varies."""
    for dim in range(labels.ndim) if dims is None else dims:
        if _is_flat(labels, dim):
            labels = labels.narrow(dim, 0, 1)
    return labels


def _compact(labels: Tensor) -> Labels:
    """Labels with stride 0 wherever they do not vary."""
    small = _collapse(labels)
    for dim in _find_varying_dims(small):
        one = small.narrow(dim, 0, 1)
        if bool((small == one).all()):
            small = one
    return small.expand(labels.shape)


def _list_distinct(labels: Labels) -> Tensor:
    """The labels as they follow each other; channels that became several positions each count once."""
    order: Tensor = torch.unique_consecutive(_collapse(labels).flatten())
    return order
