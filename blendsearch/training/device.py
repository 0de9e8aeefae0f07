"""Devices and multiplication precision; the config chooses both, and they are passed down explicitly."""

import time
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from blendsearch.errors import ConfigError

Precision = Literal["float32", "bfloat16", "float16"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Multiply matrices in `precision` inside this context; sums, statistics and weights stay in float32."""
    if precision == "float32":
        return torch.autocast(device.type, enabled=False)
    return torch.autocast(device.type, _DTYPES[precision])


LEAST_GAIN = 1.1
"""How many times faster a lower precision must be to be chosen."""


def measure_precisions(module: nn.Module, images: Tensor, repeats: int = 3) -> dict[Precision, float]:
    """Measure the least seconds of a forward pass of `images`, by precision: float32 and bfloat16."""
    seconds: dict[Precision, float] = {}
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    for precision in precisions:
        taken = []
        for _ in range(repeats + 1):  # the first pass sets up the kernels
            start = time.perf_counter()
            with torch.inference_mode(), autocast(images.device, precision):
                module(images)
            if images.device.type == "cuda":
                torch.cuda.synchronize(images.device)
            taken.append(time.perf_counter() - start)
        seconds[precision] = min(taken[1:])
    return seconds


def choose_precision(seconds: Mapping[Precision, float]) -> Precision:
    """Choose bfloat16 where it is at least `LEAST_GAIN` times faster than float32."""
    return "bfloat16" if seconds["float32"] >= LEAST_GAIN * seconds["bfloat16"] else "float32"


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


def convert_to_contiguous(module: nn.Module) -> nn.Module:
    """Convert the 4-D weights of `module` to channels-first memory, in place, and return the module."""
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous()
    return module


def _is_unsafe_in_channels_last(layer: nn.Module) -> bool:
    return (
        isinstance(layer, nn.Conv2d)
        and layer.weight.device.type == "cpu"
        and layer.kernel_size == (1, 1)
        and layer.stride != (1, 1)
        and min(layer.weight.shape[:2]) < MIN_STRIDED_CHANNELS
    )
