"""Where tensors live: chosen by the config, passed explicitly to everything that computes."""

import torch

from blendsearch.errors import ConfigError


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
