"""Channel tracing: every element of every activation carries the label of its channel.

A layer that makes channels labels its output. Operations that move elements move their labels in the same way.
Elementwise operations unite the labels that meet in them. A layer that reads channels records the label of each
position. The effect of an operation on channels is thus found by executing it: reshapes, shuffles and concatenations
need no special rules. An unknown operation freezes its inputs: this is safe, but fewer channels can be pruned.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blendsearch.structure.channel_state import ChannelState
from blendsearch.structure.decisions import READS, DecisionRecord
from blendsearch.structure.eager_mode import EagerMode
from blendsearch.structure.labels import expand_labels, find_varying_dims
from blendsearch.structure.layer_types import (
    LEAVES,
    PER_CHANNEL_LAYERS,
    PER_CHANNEL_TENSORS,
    TRANSPOSED_CONVOLUTIONS,
)
from blendsearch.structure.operation import list_arguments
from blendsearch.structure.operations import trace_operation
from blendsearch.structure.outputs import list_tensors
from blendsearch.zoo.shortcut import PaddedShortcut

Side = Literal["out", "in", "size"]


class ChannelTracer(EagerMode, ChannelState):
    """Traces the channels of `model`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        ChannelState.__init__(self, model)
        self._leaf_depth = 0
        self._output_labels: dict[str, NDArray[np.int64]] = {}
        self._used_elsewhere: set[str] = set()
        self._decisions = DecisionRecord()
        self.undecided: list[str] = []

    def trace(self, examples: Sequence[Tensor]) -> None:
        """Run the model, which must be in evaluation mode, on each of `examples`, (1, ...).

        The channels of its outputs are frozen. Examples after the first are traced if they execute other operations.
        """
        paths = set()
        for example in examples:
            path = None if len(examples) == 1 else _record_path(self._model, example)
            if path is None or path not in paths:
                self._run(example)
                self.counts_products = False
            paths.add(path)
        self.undecided = self._decisions.list_undecided()
        evaluated = self.union_find.count
        blocks = [module for module in self._model.modules() if any(True for _ in module.children())]
        buffers = [(buffer, buffer.clone()) for buffer in self._model.buffers()]
        try:  # again in training mode, where auxiliary classifiers read channels too
            for module in blocks:
                module.training = True
            self._run(examples[0])
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
        for labels, reason in self.reached.list_readable(len(examples)):
            self.union_find.freeze(torch.from_numpy(labels), reason)

    def _run(self, example: Tensor) -> None:
        self.calls.reset()
        self._decisions.add_images([example])
        with self._register_hooks(), torch.no_grad(), self:
            output = self._model(example)
        self.freeze_positions(list_tensors(output))
        self.freeze(list_tensors(output), "its channels are the network's output")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, object] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        inputs = list_arguments((args, kwargs or {}))
        self._record_decision(func, inputs, output)
        if any(tensor.numel() for tensor in list_arguments(output)):
            self.reached.add_tensors(self._names[id(tensor)] for tensor in inputs if id(tensor) in self._names)
        if not self._leaf_depth:
            self._used_elsewhere |= {self._names[id(tensor)] for tensor in inputs if id(tensor) in self._leaf_tensors}
            trace_operation(self, func, args, kwargs or {}, output)
            for tensor in list_arguments(output):
                self._record_activation(tensor)
        return output

    def _record_decision(self, func: Any, inputs: Sequence[Tensor], output: Any) -> None:
        name = func._schema.name.partition("::")[2]
        if name in READS and not self._leaf_depth and self._decisions.depends(inputs):
            self._decisions.add_value(self.calls.count(self.module_name, name), self.location, output)
        self._decisions.follow(inputs, list_arguments(output))

    # Layers

    def _trace_layer(self, name: str, module: nn.Module, inputs: Tensor, output: Tensor) -> None:
        if not inputs.numel():
            return
        dim = inputs.ndim - 1 if isinstance(module, nn.Linear) else 1
        labels = self.get_labels(inputs)
        varying = find_varying_dims(labels)
        is_moved = bool(varying) and dim not in varying
        if (is_moved and not isinstance(module, nn.Linear)) or not self._has_own_tensors(name, module):
            self.freeze([inputs], f"{name} does not read its input channel by channel")
            return
        if is_moved:  # applied along another dimension, to each channel alone
            self.set_labels(output, labels.narrow(dim, 0, 1).expand(output.shape))
            return
        read = self.unite_along(labels, dim, f"{name}, which reads all its positions alike,")
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
        self.set_labels(output, expand_labels(made, dim, output.shape))

    def _trace_weights(self, name: str, module: nn.Module, read: NDArray[np.int64]) -> NDArray[np.int64]:
        """Record the labels that a convolution or linear layer reads; return those of its output."""
        weight: Tensor = module.weight  # type: ignore[assignment]
        blocks = int(getattr(module, "groups", 1))
        out = 1 if isinstance(module, TRANSPOSED_CONVOLUTIONS) else 0
        if blocks > 1 and out == 1:
            made = self._trace_transposed_blocks(f"{name}.weight", weight, blocks, read)
        else:
            made = self._make(name, f"{name}.weight", out, weight.shape[out])
        if blocks > 1 and out == 1:
            pass
        elif blocks == 1:
            self._record_labels(f"{name}.weight", 1 - out, "in", read)
        else:  # all channels that a block of the convolution reads and makes are coupled
            reads, makes = torch.from_numpy(read).view(blocks, -1), torch.from_numpy(made).view(blocks, -1)
            for coupled in (reads, makes):
                location = f"{name}, a convolution in {blocks} groups,"
                self.union_find.unite(makes[:, :1].expand_as(coupled), coupled, location)
        if getattr(module, "bias", None) is not None:
            self._record_labels(f"{name}.bias", 0, "out", made)
        return made

    def _trace_transposed_blocks(
        self, name: str, weight: Tensor, blocks: int, read: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Record the labels of a transposed convolution in groups, whose weight is (in, out / groups, ...)."""
        reads = torch.from_numpy(read).view(blocks, -1)
        self.union_find.unite(reads[:, :1].expand_as(reads), reads, f"{name}, in {blocks} groups,")
        self._record_labels(name, 0, "out", read)
        return np.repeat(reads[:, 0].numpy(), weight.shape[1])

    def _make(self, name: str, tensor: str, dim: int, width: int) -> NDArray[np.int64]:
        if name not in self._output_labels:  # a layer that is called again makes the same channels
            self._output_labels[name] = self._record_labels(tensor, dim, "out", self.union_find.add_labels(width))
        return self._output_labels[name]

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
            self._module_stack.append((name, module))
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
            if not self._leaf_depth:
                for tensor in list_tensors(output):
                    self._record_activation(tensor)

        return hook


def _record_path(model: nn.Module, example: Tensor) -> tuple[str, ...]:
    """Return the names of the operations that `example` executes."""
    recorder = _PathRecorder()
    with torch.no_grad(), recorder:
        model(example)
    return tuple(recorder.path)


class _PathRecorder(EagerMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.path: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, object] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        self.path.append(f"{func} {[tuple(tensor.shape) for tensor in list_arguments(output)]}")
        return output
