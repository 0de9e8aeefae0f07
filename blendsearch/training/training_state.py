"""The state of a training as bytes: safetensors for tensors, JSON for numbers. Nothing is pickled."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim import Optimizer

from blendsearch.errors import format_reason

MODULE, OPTIMIZER, AVERAGE = "module/", "optimizer/", "average/"
CPU_RANDOM, CUDA_RANDOM = "random/cpu", "random/cuda"


def pack_state(tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> bytes:
    """Pack tensors and JSON values. Raises TypeError for a value that JSON does not know."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return safetensors.torch.save(plain, metadata={"state": json.dumps(dict(numbers))})


def unpack_state(content: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the JSON values of `pack_state`. Raises ValueError for other bytes."""
    try:
        tensors = safetensors.torch.load(content)
        length = int.from_bytes(content[:8], "little")
        numbers = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["state"])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"not a training state: {error}") from error
    if not isinstance(numbers, dict):
        raise ValueError("not a training state: its numbers are no table")
    return tensors, numbers


def collect_module(module: nn.Module, prefix: str = MODULE) -> dict[str, Tensor]:
    """Return the parameters and buffers of `module` under prefixed names."""
    return {prefix + name: tensor for name, tensor in module.state_dict().items() if isinstance(tensor, Tensor)}


def restore_module(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str = MODULE) -> None:
    """Copy what `collect_module` returned into `module`. Raises ValueError where it does not fit."""
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    try:
        module.load_state_dict(own)
    except RuntimeError as error:
        raise ValueError(f"not the state of this network: {format_reason(error)}") from error


def collect_optimizer(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split the optimizer's state into tensors and JSON values; parameters are named by their position."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    stored = optimizer.state_dict()
    for position, state in stored["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{OPTIMIZER}{position}/{name}"] = value
            elif value is not None:
                numbers[f"{position}/{name}"] = value
    settings = [{name: value for name, value in group.items() if name != "params"} for group in stored["param_groups"]]
    return tensors, {"state": numbers, "settings": settings}


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """Restore what `collect_optimizer` returned."""
    state: dict[int, dict[str, Any]] = {}
    named = {name.removeprefix(OPTIMIZER): value for name, value in tensors.items() if name.startswith(OPTIMIZER)}
    for path, value in [*named.items(), *numbers["state"].items()]:
        position, _, name = path.partition("/")
        state.setdefault(int(position), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    for group, settings in zip(groups, numbers["settings"], strict=True):
        group.update({name: _restore_tuple(value, group.get(name)) for name, value in settings.items()})
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _restore_tuple(value: Any, current: Any) -> Any:
    """Return `value` as a tuple where the current setting is one: JSON has lists only."""
    return tuple(value) if isinstance(current, tuple) else value


def collect_random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the states of torch's global generators."""
    states = {CPU_RANDOM: torch.get_rng_state()}
    return states | ({CUDA_RANDOM: torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def restore_random_state(tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """Restore the states of torch's global generators."""
    torch.set_rng_state(tensors[CPU_RANDOM])
    if device.type == "cuda" and CUDA_RANDOM in tensors:
        torch.cuda.set_rng_state(tensors[CUDA_RANDOM], device)


def get_generator_state(rng: np.random.Generator) -> dict[str, Any]:
    """Return the state of a PCG64 generator as JSON values."""
    return dict(rng.bit_generator.state)


def set_generator_state(rng: np.random.Generator, state: Mapping[str, Any]) -> None:
    """Restore a state of `get_generator_state`. Raises ValueError for another one."""
    try:
        rng.bit_generator.state = dict(state)
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"not the state of a generator: {error}") from error
