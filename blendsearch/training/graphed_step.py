"""CUDA graphs of training steps: forward and backward pass are recorded once and launched as one.

The networks of a search are small: on a GPU, starting their kernels one by one takes several times as long as the
kernels. See "Accelerating PyTorch with CUDA Graphs" (Nguyen et al. 2021).
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

WARM_UP_STEPS = 3
"""Steps before the recording, in which libraries choose their kernels and allocate memory."""

LEAST_STEPS = 100
"""Steps of a training below which a recording takes longer than it saves."""

GradientFunction = Callable[..., Tensor]
"""Function from the tensors of a batch to its loss, which adds the gradients to those of the parameters."""


class GraphedStep:
    """A recorded step, for batches of the shapes that it was recorded with.

    Parameters and buffers must keep their memory between calls. After a call, the gradients are those of its batch; the
    returned loss is overwritten by the next call.
    """

    def __init__(self, function: GradientFunction, module: nn.Module, inputs: Sequence[Tensor]) -> None:
        """Record `function`; the state of `module` is the same afterwards. Raises RuntimeError where it cannot be."""
        self._inputs = [tensor.clone() for tensor in inputs]
        self._graph = torch.cuda.CUDAGraph()
        device = inputs[0].device
        with _restore_state(module, device), torch.cuda.device(device):
            stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP_STEPS):
                    module.zero_grad(set_to_none=True)
                    function(*self._inputs)
            torch.cuda.current_stream(device).wait_stream(stream)
            module.zero_grad(set_to_none=True)
            # other threads, such as one that pins memory, may call CUDA meanwhile
            with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                self._loss = function(*self._inputs)
        self._gradients = [(parameter, parameter.grad) for parameter in module.parameters()]
        module.zero_grad(set_to_none=True)

    def accepts(self, inputs: Sequence[Tensor]) -> bool:
        """Return whether `inputs` have the recorded shapes."""
        return [tensor.shape for tensor in inputs] == [tensor.shape for tensor in self._inputs]

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Set the gradients to those of a batch; return its loss."""
        for recorded, given in zip(self._inputs, inputs, strict=True):
            recorded.copy_(given)
        self._graph.replay()
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        return self._loss


class GraphedFunction:
    """A gradient function that is recorded at its first call and launched as a graph from then on.

    It runs as it is where the graph would not repeat what it does: for inputs that are not tensors on a GPU or have
    other shapes than the first ones, for modules with hooks, and where the host decides: the module draws from
    generators of Python, NumPy or the CPU, counts its calls, or reads values back.
    """

    def __init__(self, function: GradientFunction, module: nn.Module) -> None:
        self._function, self._module = function, module
        self._graphed: GraphedStep | None = None
        self._is_new = True

    def __call__(self, *inputs: Any) -> Tensor:
        if self._is_new:
            self._is_new, self._graphed = False, self._record(inputs)
        if self._graphed is not None and self._graphed.accepts(inputs):
            return self._graphed(*inputs)
        return self._function(*inputs)

    def _record(self, inputs: Sequence[Any]) -> GraphedStep | None:
        if not all(isinstance(item, Tensor) and item.is_cuda for item in inputs) or _has_hooks(self._module):
            return None
        before, graphed = _read_host_state(self._module), None
        try:
            graphed = GraphedStep(self._function, self._module, inputs)
        except RuntimeError:  # an operation that no graph may have, or too little memory for it
            self._module.zero_grad(set_to_none=True)
        finally:
            changed = _read_host_state(self._module) != before
            _restore_host_state(self._module, before)
        return None if changed else graphed


def _has_hooks(module: nn.Module) -> bool:
    return any(
        part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
        for part in module.modules()
    )


@contextmanager
def _restore_state(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Restore the buffers of `module` and the generator of the GPU at the end."""
    state = torch.cuda.get_rng_state(device)
    kept = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, copy in kept:
                buffer.copy_(copy)
        torch.cuda.set_rng_state(state, device)


def _read_host_state(module: nn.Module) -> dict[str, Any]:
    """Return what a step must leave as it is: generators of the host, and plain attributes of all modules."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - what a user's network may draw from
    return {
        "python": random.getstate(),
        "numpy": (name, np.asarray(keys).tobytes(), *rest),
        "torch": torch.get_rng_state().numpy().tobytes(),
        "attributes": {path: _list_plain(part) for path, part in module.named_modules()},
    }


def _restore_host_state(module: nn.Module, state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.frombuffer(keys, np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(torch.frombuffer(bytearray(state["torch"]), dtype=torch.uint8))
    for path, part in module.named_modules():
        vars(part).update(state["attributes"].get(path, {}))


def _list_plain(part: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(part).items() if isinstance(value, bool | int | float | str)}
