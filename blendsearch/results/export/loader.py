"""Loading of an exported network from files that may come from anyone: safetensors and JSON, within limits."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from blendsearch.errors import ModelError
from blendsearch.memory import get_available_bytes
from blendsearch.results.export.description import WEIGHTS, NetworkSource, read_source
from blendsearch.structure.depthwise import make_depthwise_pair
from blendsearch.structure.folding import make_plain_layers
from blendsearch.structure.removed_layers import make_removed_layer
from blendsearch.structure.size_attributes import get_size, set_sizes
from blendsearch.structure.surgery import copy_with_tensors
from blendsearch.task import seed_rngs
from blendsearch.zoo.factory import build_untrusted_model, call_without_downloads
from blendsearch.zoo.network_copy import copy_network
from blendsearch.zoo.size_limits import SizeLimit
from blendsearch.zoo.weights import find_bad_values

MIN_ELEMENTS, MAX_RATIO = 100_000_000, 1_000
"""The dense network may have this many elements, or this many times those of the weights in the file."""

MAX_INPUT = 2**22
"""Elements of an input on which a loaded network is tried."""


def load(
    folder: str | Path, factory: Callable[..., nn.Module] | None = None, *, model: nn.Module | None = None
) -> nn.Module:
    """Load the pruned module that `export` wrote to `folder`, in evaluation mode on the CPU.

    Reads safetensors and JSON only, and downloads nothing. A network of the zoo or of torchvision is built by its name.
    One of a user-defined ``module:function`` needs that function as `factory`, since a name in a file is never
    imported. One searched in Python needs the dense network as `model`, with any weights, or its `factory`. Raises
    ModelError when the files are missing, damaged, from a newer blendsearch, or do not fit the factory's network, and
    for weights that are not finite.
    """
    folder = Path(folder)
    source = read_source(folder)
    with _open_weights(folder) as weights:
        shapes = {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
        with seed_rngs(0):  # factories draw weights
            dense = _make_dense(source, sum(map(math.prod, shapes.values())), factory, model)
        _fold(dense, folder, source)
        _decompose(dense, folder, source)
        _remove(dense, folder, source)
        named = [*dense.named_parameters(), *dense.named_buffers()]
        _check_shapes(folder, source, shapes, dense)
        names = {id(tensor): name for name, tensor in named}

        def read_tensor(tensor: Tensor) -> Tensor:
            name = names[id(tensor)]
            found: Tensor = weights.get_tensor(name)
            if found.dtype != tensor.dtype:
                raise _describe_misfit(folder, source, f"{name} is {found.dtype}, expected {tensor.dtype}")
            if bad := find_bad_values(name, found, is_parameter=isinstance(tensor, nn.Parameter)):
                raise ModelError(f"the weights in {folder} hold {bad} in {name}: export the network again")
            return found

        _check_sizes(folder, source, dense)
        module = copy_with_tensors(dense, read_tensor).eval()
        set_sizes(module, source.sizes)
    _try_network(folder, source, module, dense)
    return module


@contextmanager
def _open_weights(folder: Path) -> Iterator[Any]:
    """Open the weights in `folder`: their names and shapes are read, their values when asked for."""
    from safetensors import SafetensorError, safe_open

    path = folder / WEIGHTS
    if not path.is_file():  # a pipe, too, which would wait for a writer
        raise ModelError(f"{path} is not there: expected a folder that blendsearch exported")
    try:
        with safe_open(path, "pt") as weights:
            yield weights
    except (OSError, MemoryError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"the network in {folder} is damaged: {WEIGHTS}: {reason}") from error


def _make_dense(
    source: NetworkSource, stored: int, factory: Callable[..., nn.Module] | None, model: nn.Module | None
) -> nn.Module:
    """Build the dense network within a limit that follows from the number of `stored` elements."""
    if model is not None:
        return copy_network(model, source.shape if _is_small(source.shape) else None).module
    free = get_available_bytes()
    elements = max(MIN_ELEMENTS, MAX_RATIO * stored)
    limit = SizeLimit(elements if free is None else min(elements, free // 4), f"and its file holds {stored:,} elements")
    if factory is None:
        return build_untrusted_model(source.factory, source.arguments, limit)
    return call_without_downloads(source.factory, factory, source.arguments, limit)


def _fold(dense: nn.Module, folder: Path, source: NetworkSource) -> None:
    try:
        make_plain_layers(dense, source.folded)
    except (AttributeError, TypeError, ValueError) as error:
        raise _describe_misfit(folder, source, f"a folded layer is no convolution of it ({error})") from error


def _decompose(dense: nn.Module, folder: Path, source: NetworkSource) -> None:
    try:
        for name in source.decomposed:
            dense.set_submodule(name, make_depthwise_pair(dense.get_submodule(name)))
    except (AttributeError, TypeError, ValueError) as error:
        raise _describe_misfit(folder, source, f"a decomposed layer is no convolution of it ({error})") from error


def _remove(dense: nn.Module, folder: Path, source: NetworkSource) -> None:
    try:
        for name, outputs in source.removed.items():
            dense.set_submodule(name, make_removed_layer(dense.get_submodule(name), outputs))
    except (AttributeError, TypeError, ValueError) as error:
        raise _describe_misfit(folder, source, f"a removed layer is no layer of it ({error})") from error


def _check_shapes(folder: Path, source: NetworkSource, shapes: Mapping[str, tuple[int, ...]], dense: nn.Module) -> None:
    """Raise ModelError unless the stored `shapes` are those of `dense` with fewer channels, at least one each."""
    named = {name: tuple(tensor.shape) for name, tensor in [*dense.named_parameters(), *dense.named_buffers()]}
    if missing := sorted(named.keys() - shapes.keys()):
        raise _describe_misfit(folder, source, f"{missing[0]} is missing")
    if surplus := sorted(shapes.keys() - named.keys()):
        raise _describe_misfit(folder, source, f"it has no {surplus[0][:200]}")
    convolutions = {f"{name}.weight" for name, module in dense.named_modules() if isinstance(module, _ConvNd)}
    for name, shape in shapes.items():
        most = named[name]
        fits = len(shape) == len(most) and all(
            min(limit, 1) <= size <= limit for size, limit in zip(shape, most, strict=True)
        )
        if not fits or (name in convolutions and shape[2:] != most[2:]):
            raise _describe_misfit(
                folder, source, f"{name} has shape {shape}, expected that of {most} or fewer channels"
            )


def _check_sizes(folder: Path, source: NetworkSource, dense: nn.Module) -> None:
    """Raise ModelError unless the stored sizes are integer attributes of modules of `dense`, none of them greater."""
    for name, size in source.sizes.items():
        most = get_size(dense, name)
        if most is None or size > most:
            raise _describe_misfit(folder, source, f"{name} is {size}, expected an attribute of that size or more")


def _try_network(folder: Path, source: NetworkSource, module: nn.Module, dense: nn.Module) -> None:
    """Raise ModelError where `module` fails on an input on which the `dense` network does not: its shapes differ."""
    if source.shape is None or not _is_small(source.shape):
        return
    inputs = torch.zeros(1, *source.shape)
    layer = ""

    def note_layer(name: str) -> Callable[..., None]:
        def note(*_: object) -> None:
            nonlocal layer
            layer = name

        return note

    try:
        with ExitStack() as stack:
            for name, child in module.named_modules():
                stack.callback(child.register_forward_pre_hook(note_layer(name)).remove)
            _run(module, inputs)
    except Exception as error:  # whatever a forward pass raises
        if _is_runnable(dense, inputs):
            reason = " ".join(str(error).split())[:200]
            raise _describe_misfit(
                folder, source, f"the tensors of {layer or 'a layer'} do not fit: {reason}"
            ) from error


def _is_small(shape: tuple[int, ...] | None) -> bool:
    return shape is not None and math.prod(shape) <= MAX_INPUT


def _is_runnable(dense: nn.Module, inputs: Tensor) -> bool:
    is_training = dense.training
    try:
        _run(dense.eval(), inputs)
    except Exception:
        return False
    finally:
        dense.train(is_training)
    return True


def _run(module: nn.Module, inputs: Tensor) -> None:
    with torch.no_grad():
        module(inputs)


def _describe_misfit(folder: Path, source: NetworkSource, reason: str) -> ModelError:
    return ModelError(f"the network in {folder} does not fit {source.factory!r}: {reason}")
