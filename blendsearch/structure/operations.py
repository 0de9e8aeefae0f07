"""Effects of torch operations on the labels of channels."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from blendsearch.structure.channel_parts import couple_parts
from blendsearch.structure.channel_state import ChannelState
from blendsearch.structure.channel_statistics import get_reduced_dims, record_reduction
from blendsearch.structure.labels import (
    collapse,
    compact,
    expand_labels,
    find_varying_dims,
    get_vector,
    is_flat,
    list_distinct,
)
from blendsearch.structure.operation import Operation, list_arguments
from blendsearch.structure.operation_probe import ATTENTION_OPS, count_macs_per_channel, find_places
from blendsearch.structure.reduction_calls import NORMALIZATIONS, REDUCTIONS, format_statistic
from blendsearch.structure.union_find import NO_CHANNEL

IDENTITY_OPS = {"clone", "_to_copy", "alias", "detach", "lift_fresh", "native_dropout", "dropout"}
LIKE_OPS = {"empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like"}
NEW_OPS = {"new_empty", "new_zeros", "new_ones", "new_full"}
VIEW_OPS = {"view", "_unsafe_view", "_reshape_alias"}
MOVE_OPS = {
    *("transpose", "t", "permute", "squeeze", "unsqueeze", "expand"),
    *("slice", "select", "split", "split_with_sizes", "unbind", "roll", "flip", "index_select"),
    *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle"),
}
POOLING_OPS = {
    *("max_pool2d_with_indices", "max_pool2d", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d"),
    *("max_pool3d_with_indices", "avg_pool3d", "_adaptive_avg_pool3d", "reflection_pad2d", "replication_pad2d"),
    *("upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d"),
}
POINTWISE_OPS = {
    "hardswish",
    "hardsigmoid",
    "prelu",
    "bernoulli",
    "normal",
    "copy",
    "fill",
    "zero",
}  # pointwise, but without the tag
FACTORY_OPS = {"empty", "zeros", "ones", "full", "rand", "randn"}
PRODUCT_OPS = {"mm", "bmm", "baddbmm", *ATTENTION_OPS}
FRESH_OPS = {*FACTORY_OPS, "expand", "repeat"}


WIDTHS = ("dim", "channel", "width", "planes", "embed", "hidden", "features")
"""Parts of names of attributes that hold a number of channels."""

Handler = Callable[[ChannelState, Operation], None]


def trace_operation(
    tracer: ChannelState, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, object], output: Any
) -> None:
    """Label the outputs of an operation, and unite or freeze the labels of its inputs."""
    inputs, outputs = list_arguments((args, kwargs)), list_arguments(output)
    labelled = [tensor for tensor in inputs if tracer.has_labels(tensor)]
    name = func._schema.name.partition("::")[2]
    is_pointwise = torch.Tag.pointwise in func.tags
    call = tracer.calls.count(tracer.module_name, name) if name in (*REDUCTIONS, *NORMALIZATIONS) else ""
    tracer.freeze_positions(inputs)
    if not labelled and (
        name in FRESH_OPS
        or any(not tensor.numel() for tensor in inputs)
        or ((is_pointwise or name in VIEW_OPS | MOVE_OPS) and any(tracer.is_fresh(tensor) for tensor in inputs))
    ):
        for tensor in outputs:
            tracer.add_fresh_tensor(tensor)
    if not labelled or not outputs:
        return
    location = f"{name} in {tracer.location}"
    if func._schema.is_mutable:
        name = name.rstrip("_")
    operation = Operation(func, name, location, args, kwargs, inputs, outputs, call)
    single = len(labelled) == 1 and args and args[0] is labelled[0]
    handler = SINGLE_INPUT_HANDLERS.get(name) if single else None
    if handler is None and is_pointwise:
        handler = _unite_inputs
    (handler or HANDLERS.get(name, _probe))(tracer, operation)


def _freeze_inputs(tracer: ChannelState, operation: Operation) -> None:
    tracer.freeze(operation.inputs, f"{operation.location} reads all its channels at once")


def _probe(tracer: ChannelState, operation: Operation) -> None:
    """Label the outputs of an operation that treats each channel alone, which is found by executing it on some."""
    vectors = {
        tensor: get_vector(tracer.get_labels(tensor)) for tensor in operation.inputs if tracer.has_labels(tensor)
    }
    known = {tensor: vector for tensor, vector in vectors.items() if vector is not None}
    places = None
    if len(known) == len(vectors) and len({len(labels) for _, labels in known.values()}) == 1:
        places = find_places(operation, {tensor: dim for tensor, (dim, _) in known.items()})
    if places is None:
        _freeze_inputs(tracer, operation)
        return
    (_, first), *others = known.values()
    for _, labels in others:
        tracer.union_find.unite(first, labels, operation.location)
    if operation.name in PRODUCT_OPS:
        tracer.record_product(operation.location, count_macs_per_channel(operation, len(first)), first)
    for tensor, place in zip(operation.outputs, places, strict=True):
        if place is not None:
            dim, channels = place
            shape = [-1 if other == dim else 1 for other in range(tensor.ndim)]
            tracer.set_labels(tensor, first[channels].reshape(shape).expand(tensor.shape))


def _copy_labels(tracer: ChannelState, operation: Operation) -> None:
    tracer.set_labels(operation.outputs[0], tracer.get_labels(operation.args[0]))


def _move(tracer: ChannelState, operation: Operation) -> None:
    before = tracer.get_labels(operation.args[0])
    if operation.func._schema.name.partition("::")[2] in VIEW_OPS:
        moved = [before.reshape(operation.outputs[0].shape)]
    else:
        moved = list_arguments(operation.func(before, *operation.args[1:], **operation.kwargs))
    moved = [compact(labels) for labels in moved if labels.numel()]
    outputs = [tensor for tensor in operation.outputs if tensor.numel()]
    if any(_is_reordered(before, labels) for labels in moved):
        if couple_parts(tracer, operation, before):
            before = tracer.canonicalize(before)
            moved = [compact(tracer.canonicalize(labels)) for labels in moved]
        elif not operation.name.startswith("pixel_"):
            # widths in a reshape or split are mostly constants in the code, which do not change with a cut
            tracer.union_find.freeze(before, f"{operation.location} splits or reorders its channels")
    elif operation.name in VIEW_OPS and moved:
        _record_sizes(tracer, before, moved[0])
    for tensor, labels in zip(outputs, moved, strict=True):
        vector = get_vector(labels) if operation.name in VIEW_OPS else None
        if vector is not None:
            tracer.record_shape(tensor.shape, *vector)
        tracer.set_labels(tensor, labels)


def _record_sizes(tracer: ChannelState, before: Tensor, after: Tensor) -> None:
    """Let attributes follow the width of parts that are put together again, or that is kept as pixels are merged."""
    parts, merged = get_vector(before), get_vector(after)
    if not parts or not merged:
        return
    if len(parts[1]) != len(merged[1]):
        if tracer.union_find.is_assumed(merged[1]):
            tracer.record_sizes(len(merged[1]), merged[1])
    elif before.ndim != after.ndim:
        tracer.record_sizes(len(merged[1]), merged[1], WIDTHS)


def _is_reordered(before: Tensor, after: Tensor) -> bool:
    return len(find_varying_dims(after)) > len(find_varying_dims(before)) or not torch.equal(
        list_distinct(after), list_distinct(before)
    )


def _make_like(tracer: ChannelState, operation: Operation) -> None:
    """Label a new tensor as wide as its input, which took its sizes from there; noise of a dropout, for example."""
    tensor, output = operation.args[0], operation.outputs[0]
    labels = collapse(tracer.get_labels(tensor))
    if output.ndim == tensor.ndim and all(output.shape[dim] == labels.shape[dim] for dim in find_varying_dims(labels)):
        tracer.set_labels(output, labels.expand(output.shape))


def _restride(tracer: ChannelState, operation: Operation) -> None:
    """Keep the labels of a tensor of which only the memory format changes."""
    labels, output = tracer.get_labels(operation.args[0]), operation.outputs[0]
    if labels.shape == output.shape:
        tracer.set_labels(output, labels)
        return
    tracer.union_find.freeze(collapse(labels), f"{operation.location} reads all its channels at once")
    tracer.set_labels(output, torch.full((), NO_CHANNEL).expand(output.shape))


def _concatenate(tracer: ChannelState, operation: Operation) -> None:
    args, output = operation.args, operation.outputs[0]
    dim = args[1] if len(args) > 1 else operation.kwargs.get("dim", 0)
    _unite_concatenated(tracer, operation, dim % output.ndim)
    parts = [tracer.get_labels(tensor) for tensor in args[0] if tensor.ndim == output.ndim and tensor.numel()]
    for other in range(output.ndim):
        if other != dim % output.ndim and all(is_flat(part, other) for part in parts):
            parts = [part.narrow(other, 0, 1) for part in parts]  # one slice represents all
    if parts:
        tracer.set_labels(output, compact(torch.cat(parts, dim).expand(output.shape)))


def _unite_concatenated(tracer: ChannelState, operation: Operation, dim: int) -> None:
    """Unite the channels of tensors that are joined along another dimension, such as tokens with a class token."""
    vectors = [get_vector(tracer.get_labels(tensor)) for tensor in operation.args[0]]
    dims = {vector[0] for vector in vectors if vector is not None}
    if None in vectors or len(dims) != 1 or dims == {dim}:
        return
    first, *others = [vector[1] for vector in vectors if vector is not None]
    for labels in others:
        tracer.union_find.unite(first, labels, operation.location)
    for tensor in operation.args[0]:
        tracer.set_labels(tensor, tracer.canonicalize(tracer.get_labels(tensor)))


def _pad(tracer: ChannelState, operation: Operation) -> None:
    """Label padding as NO_CHANNEL. Padded pixels do not change the labels of channels."""
    (tensor, pads), output = operation.args[:2], operation.outputs[0]
    labels = tracer.get_labels(tensor)
    widths = list(pads)
    for number in range(len(pads) // 2):
        dim = labels.ndim - 1 - number
        if is_flat(labels, dim):
            labels = labels.narrow(dim, 0, 1)
            widths[2 * number : 2 * number + 2] = (0, 0)
    tracer.set_labels(output, compact(nn.functional.pad(labels, widths, value=NO_CHANNEL).expand(output.shape)))


def _pool(tracer: ChannelState, operation: Operation) -> None:
    labels = tracer.get_labels(operation.args[0])
    if any(dim >= 2 for dim in find_varying_dims(labels)) or operation.args[0].ndim < 3:
        _probe(tracer, operation)
        return
    kept = labels.flatten(2)[:, :, :1]
    for tensor in operation.outputs:
        tracer.set_labels(tensor, kept.reshape(*kept.shape[:2], *[1] * (tensor.ndim - 2)).expand(tensor.shape))


def _unite_inputs(tracer: ChannelState, operation: Operation) -> None:
    """Unite the labels at the same position of the inputs of an elementwise operation."""
    output, location = operation.outputs[0], operation.location
    shape = output.shape
    if not output.numel():
        return
    labelled = [(tensor, tracer.get_labels(tensor).expand(shape)) for tensor in operation.inputs]
    for tensor, _ in labelled:
        tracer.label_free_tensor(tensor, [labels for _, labels in labelled])
    spread = [(tensor, tracer.get_labels(tensor).expand(shape)) for tensor in operation.inputs]
    varying = {dim for _, labels in spread for dim in find_varying_dims(labels)}
    united: list[Tensor] = []
    plain = ""
    for tensor, labels in spread:
        if tracer.is_fresh(tensor) and not tracer.has_labels(tensor):
            continue  # its size may be that of the tensor it meets
        size = (1,) * (len(shape) - tensor.ndim) + tuple(tensor.shape)
        if any(size[dim] == 1 for dim in varying):  # a mask for all channels, or a scalar
            tracer.freeze([tensor], f"{location} broadcasts it over the channels of another layer")
        else:
            united.append(labels)
            plain = plain or tracer.find_plain_name(tensor)
    first = next((labels for labels in united if bool((collapse(labels) != NO_CHANNEL).any())), None)
    if first is not None and plain:
        reason = f"{location} uses {plain}, neither a parameter nor a buffer: register it as a buffer"
        tracer.union_find.freeze(collapse(first), reason)
    for labels in united:
        if first is not None and labels is not first:
            flat = [dim for dim in range(len(shape)) if is_flat(first, dim) and is_flat(labels, dim)]
            tracer.union_find.unite(collapse(first, flat), collapse(labels, flat), location)
    if first is not None and any(tracer.is_fresh(tensor) for tensor in operation.inputs):
        tracer.union_find.assume(collapse(first), f"{location} couples it to positions that are never cut")
    if first is not None and len(find_varying_dims(first)) > 1:
        first = compact(tracer.canonicalize(first))
    tracer.set_labels(output, torch.full((), NO_CHANNEL).expand(shape) if first is None else first)


def _reduce(tracer: ChannelState, operation: Operation) -> None:
    """Follow channels through a reduction of other dimensions; record one over channels."""
    tensor, dims = operation.args[0], get_reduced_dims(operation)
    labels = tracer.get_labels(tensor)
    if dims is None or set(dims) & set(find_varying_dims(labels)):
        if dims is None or not record_reduction(tracer, operation, dims):
            _freeze_inputs(tracer, operation)
        return
    for dim in reversed(dims):
        labels = labels.narrow(dim, 0, 1) if operation.outputs[0].ndim == tensor.ndim else labels.select(dim, 0)
    for output in operation.outputs:
        tracer.set_labels(output, labels)


def _normalize_in_groups(tracer: ChannelState, operation: Operation) -> None:
    """Unite the channels of each group of a group normalisation, which are cut together.

    A single group is normalised over the channels that are kept, as by a layer normalisation.
    """
    tensor, weight, bias = operation.args[:3]
    blocks = int(operation.args[6])
    vector = get_vector(tracer.get_labels(tensor))
    if vector is None or vector[0] != 1:
        _freeze_inputs(tracer, operation)
        return
    labels = vector[1]
    if blocks > 1:
        coupled = labels.reshape(blocks, -1)
        tracer.union_find.unite(coupled[:, :1].expand_as(coupled), coupled, operation.location)
        if weight is None or not tracer.is_running(nn.GroupNorm):
            tracer.record_sizes(blocks, labels[:: len(labels) // blocks])
            tracer.record_sizes(len(labels), labels)
    elif weight is None:
        _record_bare_norm(tracer, operation, 1, labels)
    _unite_parameters(tracer, operation, labels, weight, bias)
    tracer.set_labels(operation.outputs[0], tracer.get_labels(tensor))


def _convolve(tracer: ChannelState, operation: Operation) -> None:
    """Follow channels through a convolution by a function that has one filter per channel, such as a blur."""
    tensor, weight, bias = operation.args[:3]
    is_transposed, groups = operation.args[6], int(operation.args[8])
    vector = get_vector(tracer.get_labels(tensor))
    is_depthwise = groups == tensor.shape[1] == operation.outputs[0].shape[1] > 1
    if vector is None or vector[0] != 1 or is_transposed or not is_depthwise:
        _probe(tracer, operation)
        return
    channels, output = vector[1], operation.outputs[0]
    for parameter in (weight, bias):
        if parameter is None:
            continue
        filters = tracer.label_filters(parameter)
        if filters is not None:
            tracer.union_find.unite(channels, filters, operation.location)
        elif tracer.is_fresh(parameter):
            tracer.union_find.assume(channels, f"{operation.location} applies computed filters")
        else:
            _freeze_inputs(tracer, operation)
            return
    tracer.record_sizes(groups, channels)
    tracer.record_product(operation.location, count_macs_per_channel(operation, groups), channels)
    tracer.set_labels(output, channels.reshape(-1, *[1] * (output.ndim - 2)).expand(output.shape))


def _gate(tracer: ChannelState, operation: Operation) -> None:
    """Unite the channels at equal places of two halves, of which one gates the other."""
    tensor, output = operation.args[0], operation.outputs[0]
    dim = (operation.args[1] if len(operation.args) > 1 else -1) % tensor.ndim
    vector = get_vector(tracer.get_labels(tensor))
    if vector is None or vector[0] != dim:
        _probe(tracer, operation)
        return
    first, second = vector[1].reshape(2, -1)
    tracer.union_find.unite(first, second, operation.location)
    tracer.set_labels(output, expand_labels(first.numpy(), dim, output.shape))


def _normalize_last_dims(tracer: ChannelState, operation: Operation) -> None:
    """Follow channels through a layer normalisation; over the channels, it normalises those that are kept.

    `structure.verify` compares with a masked network that does so too.
    """
    tensor, normalized, weight, bias = operation.args[:4]
    labels, dim = tracer.get_labels(tensor), tensor.ndim - 1
    varying = find_varying_dims(labels)
    if all(other < tensor.ndim - len(normalized) for other in varying):
        tracer.set_labels(operation.outputs[0], labels)
        return
    if len(normalized) > 1 or dim not in varying:
        _freeze_inputs(tracer, operation)
        return
    channels = torch.from_numpy(tracer.unite_along(labels, dim, operation.location))
    _unite_parameters(tracer, operation, channels, weight, bias)
    if weight is None:
        _record_bare_norm(tracer, operation, dim, channels)
    tracer.record_sizes(len(channels), channels)
    tracer.set_labels(operation.outputs[0], channels.expand(tensor.shape))


def _record_bare_norm(tracer: ChannelState, operation: Operation, dim: int, labels: Tensor) -> None:
    """Record a normalisation over channels that has no weight of its own."""
    tracer.record_statistic(format_statistic(operation.call, dim), labels)
    tracer.record_sizes(len(labels), labels)


def _unite_parameters(tracer: ChannelState, operation: Operation, labels: Tensor, *parameters: Tensor | None) -> None:
    """Unite the labels of channels with those of a scale and a shift per channel."""
    for parameter in parameters:
        if parameter is not None:
            tracer.union_find.unite(labels, tracer.get_labels(parameter).contiguous(), operation.location)


SINGLE_INPUT_HANDLERS: dict[str, Handler] = {
    "as_strided": _restride,
    **dict.fromkeys(IDENTITY_OPS | LIKE_OPS, _copy_labels),
    **dict.fromkeys(NEW_OPS, _make_like),
    **dict.fromkeys(VIEW_OPS | MOVE_OPS, _move),
}
"""Handlers of operations whose first argument is their only labelled input."""

HANDLERS: dict[str, Handler] = {
    "cat": _concatenate,
    "constant_pad_nd": _pad,
    "convolution": _convolve,
    "glu": _gate,
    "native_group_norm": _normalize_in_groups,
    "native_layer_norm": _normalize_last_dims,
    **dict.fromkeys(POINTWISE_OPS, _unite_inputs),
    **dict.fromkeys(POOLING_OPS, _pool),
    **dict.fromkeys(REDUCTIONS, _reduce),
}
"""Handlers of other operations without the tag `pointwise`."""
