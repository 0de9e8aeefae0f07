"""Surgery: slices the tensors of a dense network into a new, narrower module.

Only kept channels are copied. The module tree is copied without tensors and then filled with the sliced ones.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from blendsearch.structure.depthwise import decompose
from blendsearch.structure.groups import Cut, IndexMaps
from blendsearch.structure.removed_layers import fit_removed_layers, remove_empty_layers
from blendsearch.structure.size_attributes import set_sizes
from blendsearch.transfer import send

_SHARED_TYPES = (
    int,
    float,
    str,
    bool,
    bytes,
    type(None),
    torch.dtype,
    torch.device,
    torch.Size,
    type,
    type(len),
    type(lambda: 0),
    fx.Graph,  # code, which no cut changes
)


_CONTAINER_TYPES = (dict, OrderedDict, list, set, tuple)


def narrow(model: nn.Module, maps: IndexMaps, cut: Cut, previous_cut: Cut | None = None) -> nn.Module:
    """Copy only the kept channels of `model` into a new module that shares no memory with it.

    `cut` has shape (maps.channels,). If `model` was already cut by `previous_cut`, `cut` must be a part of it. Layers
    marked for decomposition are decomposed (`structure.depthwise`) after their channels are cut. Layers of groups that
    keep no channel are removed (`structure.removed_layers`). Mode and device stay the same.
    """
    if cut.shape != (maps.channels,):
        raise ValueError(f"a cut of this network has shape ({maps.channels},), not {cut.shape}")
    kept = maps.find_kept_positions(cut)
    if previous_cut is not None:
        if (cut & ~previous_cut).any():
            raise ValueError("cut keeps channels that previous_cut removed")
        kept = [
            np.searchsorted(before, after)
            for before, after in zip(maps.find_kept_positions(previous_cut), kept, strict=True)
        ]
    names = {id(tensor): name for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    on_device: dict[torch.device, Sequence[Tensor]] = {}

    def slice_tensor(tensor: Tensor) -> Tensor:
        out = tensor.detach()
        for dim, source in maps.slices.get(names[id(tensor)], ()):
            if len(kept[source]) == out.shape[dim]:
                continue
            if out.device.type == "cpu" and out.dtype != torch.bfloat16:
                # NumPy gathers up to ten times faster than index_select along an inner dimension
                out = torch.from_numpy(np.take(out.numpy(), kept[source], axis=dim))
                continue
            if out.device not in on_device:
                on_device[out.device] = send_positions(kept, out.device)
            out = out.index_select(dim, on_device[out.device][source])
        return out.clone() if out.data_ptr() == tensor.data_ptr() else out

    narrowed = copy_with_tensors(model, slice_tensor)
    set_sizes(narrowed, {name: len(kept[dict(maps.slices[name])[0]]) for name in maps.sized})
    if not all(map(len, kept)):
        outputs = _count_outputs(maps, kept)
        fit_removed_layers(narrowed, outputs)
        remove_empty_layers(narrowed, outputs)
    for name in maps.find_decomposed_layers(cut):
        decompose(narrowed, name)
    return narrowed


def send_positions(kept: Sequence[NDArray[np.int64]], device: torch.device) -> Sequence[Tensor]:
    """Copy the positions of all slices to `device` at once: each copy takes a GPU longer than a slice."""
    together = send(torch.from_numpy(np.concatenate(kept)), device)
    return torch.split(together, [len(positions) for positions in kept])


def _count_outputs(maps: IndexMaps, kept: Sequence[NDArray[np.int64]]) -> dict[str, int]:
    """Count the outputs that each layer keeps, by its name, where a cut can reduce them."""
    found = {}
    for tensor, slices in maps.slices.items():
        name, _, attribute = tensor.rpartition(".")
        if attribute == "weight" and 0 in dict(slices):
            found[name] = len(kept[dict(slices)[0]])
    return found


def copy_with_tensors(model: nn.Module, make_tensor: Callable[[Tensor], Tensor]) -> nn.Module:
    """Copy the module tree with `make_tensor` of every parameter and buffer.

    Widths stored as attributes (``out_channels``, ``num_features``, ``groups`` ...) are set from the new shapes.
    """
    memo: dict[int, object] = {}
    new = _copy_module(model, make_tensor, memo)
    for module in new.modules():
        fit_attributes(module)
    return new


def fit_attributes(module: nn.Module) -> None:
    """Set the widths that `module` stores as attributes to those of its tensors."""
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        if module.groups > 1:
            module.groups = module.weight.shape[0] // (module.in_channels // module.groups)
        module.in_channels, module.out_channels = module.weight.shape[0], module.weight.shape[1] * module.groups
    elif isinstance(module, nn.modules.conv._ConvNd):
        if module.groups > 1:  # only complete groups are cut: the channels of each stay the same
            module.groups = module.weight.shape[0] // (module.out_channels // module.groups)
        module.out_channels = module.weight.shape[0]
        module.in_channels = module.weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.GroupNorm):
        if module.weight is not None:  # only complete groups are cut, unless there is a single one
            if module.num_groups > 1:
                module.num_groups = module.weight.shape[0] // (module.num_channels // module.num_groups)
            module.num_channels = module.weight.shape[0]
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
        if module.weight is not None:
            module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        width = module.weight if module.weight is not None else module.running_mean
        if width is not None:
            module.num_features = width.shape[0]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.shape[0]


def _copy_module(module: nn.Module, make_tensor: Callable[[Tensor], Tensor], memo: dict[int, object]) -> nn.Module:
    done = memo.get(id(module))
    if done is not None:
        return done  # type: ignore[return-value]
    # an fx.GraphModule makes a class of its own, whose forward pass is compiled below
    kind = module.__class__
    new = kind.__new__(kind) if isinstance(module, fx.GraphModule) else object.__new__(kind)
    memo[id(module)] = new
    state: dict[str, object] = {}
    new.__dict__ = state
    for key, value in module.__dict__.items():
        if isinstance(value, _SHARED_TYPES):
            state[key] = value
        elif key == "_parameters":
            state[key] = {name: _copy_parameter(tensor, make_tensor, memo) for name, tensor in value.items()}
        elif key == "_buffers":
            state[key] = {name: _copy_buffer(tensor, make_tensor, memo) for name, tensor in value.items()}
        elif key == "_modules":
            state[key] = {
                name: None if child is None else _copy_module(child, make_tensor, memo) for name, child in value.items()
            }
        elif type(value) in _CONTAINER_TYPES and not value:
            state[key] = type(value)()  # about ten empty hook tables per module, for which deepcopy is slow
        else:  # other attributes may hold modules or tensors: the memo maps them to those of the new tree
            state[key] = copy.deepcopy(value, memo)
    if isinstance(new, fx.GraphModule):  # its class is made for it, and gets its forward pass from the graph
        new.recompile()
    return new


def _copy_parameter(
    parameter: nn.Parameter | None, make_tensor: Callable[[Tensor], Tensor], memo: dict[int, object]
) -> object:
    if parameter is None or id(parameter) in memo:
        return None if parameter is None else memo[id(parameter)]
    new = memo[id(parameter)] = nn.Parameter(make_tensor(parameter), requires_grad=parameter.requires_grad)
    return new


def _copy_buffer(buffer: Tensor | None, make_tensor: Callable[[Tensor], Tensor], memo: dict[int, object]) -> object:
    if buffer is None or id(buffer) in memo:
        return None if buffer is None else memo[id(buffer)]
    new = memo[id(buffer)] = make_tensor(buffer)
    return new
