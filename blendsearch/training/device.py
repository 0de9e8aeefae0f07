"""Devices and multiplication precision; the config chooses both, and they are passed down explicitly."""

from typing import Literal

import torch
from torch import nn

from blendsearch.errors import ConfigError

Precision = Literal["float32", "bfloat16", "float16"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Multiply matrices in `precision` inside this context; sums, statistics and weights stay in float32."""
    if precision == "float32":
        return torch.autocast(device.type, enabled=False)
    return torch.autocast(device.type, _DTYPES[precision])


def resolve_device(name: str) -> torch.device:
    """Return the device called `name`; ``auto`` is the first CUDA device if there is one, else the CPU.

    Raises ConfigError for an unknown or missing device.
    """
    if name == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"no device is called {name!r}: expected auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name!r} is not there: this machine has {torch.cuda.device_count()} CUDA devices; use auto or cpu"
        )
    return device


MIN_STRIDED_CHANNELS = 16
"""Channels of a strided 1 x 1 convolution below which a network on the CPU keeps channels-first memory.

In channels-last memory, oneDNN's backward pass of such a layer writes out of bounds (torch 2.15; seen with 2 to 6
channels).
"""


def convert_to_channels_last(module: nn.Module) -> nn.Module:
    """Convert the 4-D weights of `module` to channels-last memory, in place, and return the module.

    About a sixth faster than channels first on a CPU, and the layout that half-precision GPU kernels need. Networks
    with narrow strided 1 x 1 convolutions on the CPU do not change, see `MIN_STRIDED_CHANNELS`.
    """
    if any(_is_unsafe_in_channels_last(layer) for layer in module.modules()):
        return module
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
    return module


def _is_unsafe_in_channels_last(layer: nn.Module) -> bool:
    return (
        isinstance(layer, nn.Conv2d)
        and layer.weight.device.type == "cpu"
        and layer.kernel_size == (1, 1)
        and layer.stride != (1, 1)
        and min(layer.weight.shape[:2]) < MIN_STRIDED_CHANNELS
    )
