"""Loading of weights from a file, without running code from it."""

from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor, nn

from blendsearch.errors import ModelError
from blendsearch.zoo.unreadable_weights import describe_unreadable, is_safetensors

CONTAINERS = ("state_dict", "model_state_dict", "model", "module", "net", "model_ema", "state_dict_ema", "ema")
"""Keys under which training scripts save a state dict; plain weights are preferred to averaged ones."""

PREFIXES = ("module.", "model.", "net.", "network.")
"""Prefixes of names, besides those of torch.compile: of DataParallel, and of modules that hold a network
as Lightning's do."""


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill `model` with the state dict in `path`: safetensors, or a ``.pt``/``.pth`` that holds only tensors.

    Unpacks what training scripts put around it (`CONTAINERS`), and removes prefixes of wrappers (`PREFIXES`). Raises
    ModelError if the file is missing, damaged, not finite, or belongs to another architecture.
    """
    state = _match_names(read_state(path), model.state_dict().keys())
    expected = model.state_dict()
    optional = {name for name in expected if name.endswith("num_batches_tracked")}
    missing = sorted(expected.keys() - state.keys() - optional)
    surplus = sorted(state.keys() - expected.keys())
    if missing or surplus:
        clauses = [_format_names("lacks", missing), _format_names("has in addition", surplus)]
        raise ModelError(
            f"weights {path} belong to another architecture than {type(model).__name__}: the file "
            f"{' and '.join(clause for clause in clauses if clause)}; check model.factory and model.arguments"
        )
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise ModelError(
                f"weights {path} belong to another architecture than {type(model).__name__}: {name} has shape "
                f"{tuple(tensor.shape)}, expected {tuple(expected[name].shape)}; check model.arguments"
            )
        if bad := find_bad_values(name, tensor, is_parameter=True):
            raise ModelError(f"weights {path} hold {bad} in {name}: use an earlier checkpoint")
    model.load_state_dict(state, strict=False)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the state dict in `path`, without prefixes and outer dicts. Raises ModelError as `load_weights` does."""
    if not path.is_file():
        raise ModelError(f"weights {path} do not exist: check model.weights, or set model.train to train from scratch")
    state = _read(path)
    for prefix in ("module.", "_orig_mod.", "module."):
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def find_bad_values(name: str, tensor: Tensor, *, is_parameter: bool) -> str | None:
    """Return the kind of values in the tensor called `name` that make a network useless, None where there are none.

    Buffers may hold infinity, as masks of attention do, unless they are statistics.
    """
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return None
    field = name.rpartition(".")[2]
    if bool(torch.isnan(tensor).any()):
        return "NaN or infinity"
    if (is_parameter or field.startswith("running_")) and not torch.isfinite(tensor).all():
        return "NaN or infinity"
    if field == "running_var" and bool((tensor < 0).any()):
        return "negative variances"
    return None


def _match_names(state: dict[str, Tensor], expected: Collection[str]) -> dict[str, Tensor]:
    """Remove the prefixes of wrappers from the names in `state`, until they are those `expected`.

    Names without the prefix are left out where the others are all that is expected: of a loss or a metric in a
    LightningModule, or the counter of averaged weights.
    """
    required = {name for name in expected if not name.endswith("num_batches_tracked")}
    found, fallback = state, state
    while not required <= found.keys():
        whole = {name.replace("_orig_mod.", ""): tensor for name, tensor in found.items()}
        prefix = next((item for item in PREFIXES if any(name.startswith(item) for name in whole)), None)
        if required <= whole.keys():
            return whole
        if prefix is None:
            return fallback
        found = {name.removeprefix(prefix): tensor for name, tensor in whole.items() if name.startswith(prefix)}
        fallback = found if len(found) == len(whole) else fallback
    return found


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors" or is_safetensors(path):
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ModelError(f"weights {path} are not a complete safetensors file: {error}") from error
    except Exception as error:  # torch.load raises a dozen types for a damaged file
        raise ModelError(f"weights {path} {describe_unreadable(path, error)}") from error
    for key in CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        keys = f" with {', '.join(map(str, list(content)[:5]))}" if isinstance(content, dict) else ""
        raise ModelError(
            f"weights {path} hold a {type(content).__name__}{keys}, expected a state dict of tensors, by itself or "
            f"under {', '.join(CONTAINERS[:-1])} or {CONTAINERS[-1]}; save the network's state_dict()"
        )
    return content


def _format_names(verb: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{verb} {', '.join(names[:3])}{more}"
