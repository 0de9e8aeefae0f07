"""Layers of removed blocks: what stands in their place.

A cut that keeps no channel of a group removes the layers that make and read them. A layer without outputs returns one
channel of zeros, so that no tensor is empty. A layer without inputs returns zeros for all its outputs, plus its bias. A
normalisation between them returns its input.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from blendsearch.structure.layer_types import CONVOLUTIONS, PER_CHANNEL_LAYERS

NORMS = (*PER_CHANNEL_LAYERS, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


class RemovedLayer(nn.Module):
    """Returns zeros of the shape that a convolution or a linear layer returns, plus a bias.

    `channels` are the outputs, at least 1. `windows` holds kernel, stride, padding on both sides together, and dilation
    of each spatial dimension of a convolution; empty for a linear layer, whose channels are the last dimension.
    """

    bias: nn.Parameter | None

    def __init__(
        self, channels: int, windows: tuple[tuple[int, int, int, int], ...], bias: nn.Parameter | None = None
    ) -> None:
        super().__init__()
        self.channels = channels
        self.windows = windows
        self.register_parameter("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        if not self.windows:
            zeros = x.new_zeros(*x.shape[:-1], self.channels)
            return zeros if self.bias is None else zeros + self.bias
        positions = [_count_positions(size, window) for size, window in zip(x.shape[2:], self.windows, strict=True)]
        zeros = x.new_zeros(x.shape[0], self.channels, *positions)
        return zeros if self.bias is None else zeros + self.bias.reshape(-1, *[1] * len(self.windows))


def _count_positions(size: int, window: tuple[int, int, int, int]) -> int:
    kernel, stride, padding, dilation = window
    return (size + padding - dilation * (kernel - 1) - 1) // stride + 1


def make_removed_layer(layer: nn.Module, channels: int) -> nn.Module:
    """Make what stands in the place of `layer`, which keeps `channels` outputs; 0 for a layer without outputs.

    The bias of a layer with outputs stays. Raises ValueError for a module that cannot be removed.
    """
    if isinstance(layer, NORMS) and not channels:
        return nn.Identity().train(layer.training)
    if isinstance(layer, RemovedLayer):  # of a network that is cut again
        windows = layer.windows
    elif isinstance(layer, CONVOLUTIONS):
        windows = tuple(zip(layer.kernel_size, layer.stride, _sum_paddings(layer), layer.dilation, strict=True))
    elif isinstance(layer, nn.Linear):
        windows = ()
    else:
        raise ValueError(f"a {type(layer).__name__} cannot be removed")
    bias: Any = layer.bias if channels else None
    return RemovedLayer(max(1, channels), windows, bias).train(layer.training)


def _sum_paddings(layer: nn.modules.conv._ConvNd) -> tuple[int, ...]:
    pairs = layer._reversed_padding_repeated_twice[::-1]
    return tuple(first + second for first, second in zip(pairs[::2], pairs[1::2], strict=True))


def remove_empty_layers(network: nn.Module, outputs: Mapping[str, int]) -> None:
    """Replace, in place, each layer of `network` with an empty parameter or buffer by what stands in its place.

    `outputs` holds the outputs that the layers keep whose outputs a cut can reduce, by name.
    """
    for name, layer in list(_iter_empty_layers(network)):
        network.set_submodule(name, make_removed_layer(layer, outputs.get(name, _count_outputs(layer))))


def fit_removed_layers(network: nn.Module, outputs: Mapping[str, int]) -> None:
    """Set the outputs of layers that were removed before, in place; `outputs` as for `remove_empty_layers`."""
    for name, layer in network.named_modules():
        if isinstance(layer, RemovedLayer):
            layer.channels = max(1, outputs.get(name, layer.channels))


def _count_outputs(layer: nn.Module) -> int:
    weight = getattr(layer, "weight", None)
    return len(weight) if isinstance(weight, Tensor) and not isinstance(layer, NORMS) else 0


def _iter_empty_layers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in network.named_modules():
        tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if any(not tensor.numel() for tensor in tensors):
            yield name, module


def list_removed_layers(network: nn.Module) -> dict[str, int]:
    """List the removed convolutions and linear layers of `network`, with the outputs they return."""
    return {name: module.channels for name, module in network.named_modules() if isinstance(module, RemovedLayer)}


def has_removed_layers(network: nn.Module) -> bool:
    """Return True if a block of `network` was removed."""
    return any(isinstance(module, RemovedLayer) for module in network.modules())
