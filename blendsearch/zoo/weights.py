"""Weights from a file into a network, without running anything the file says."""

from pathlib import Path

import torch
from torch import Tensor, nn

from blendsearch.errors import ModelError


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill `model` with the state dict in `path`: safetensors, or a ``.pt``/``.pth`` that holds nothing but tensors.

    A ``module.`` or ``_orig_mod.`` in front of every name (as DataParallel and torch.compile leave it) and an outer
    ``state_dict``, ``model_state_dict`` or ``model`` (as training scripts save them) are seen through.
    Raises ModelError when the file is missing, damaged, not finite, or belongs to another architecture.
    """
    if not path.is_file():
        raise ModelError(f"weights {path} are not there: check model.weights, or set model.train to train from scratch")
    state = _read(path)
    for wrapped in ("module.", "_orig_mod.", "module."):
        if state and all(name.startswith(wrapped) for name in state):
            state = {name.removeprefix(wrapped): tensor for name, tensor in state.items()}
    expected = model.state_dict()
    optional = {name for name in expected if name.endswith("num_batches_tracked")}
    missing = sorted(expected.keys() - state.keys() - optional)
    surplus = sorted(state.keys() - expected.keys())
    if missing or surplus:
        clauses = [_format_names("lacks", missing), _format_names("has besides", surplus)]
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
        if not torch.isfinite(tensor).all():
            raise ModelError(f"weights {path} hold NaN or infinity in {name}: take a checkpoint from before that")
    model.load_state_dict(state, strict=False)


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ModelError(f"weights {path} are not a whole safetensors file: {error}") from error
    except Exception as error:  # torch.load raises a dozen types for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"weights {path} cannot be read as tensors alone: {reason[:200]}; save a state dict, best as safetensors"
        ) from error
    for wrapped in ("state_dict", "model_state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(wrapped), dict):
            found = found[wrapped]
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        keys = f" with {', '.join(map(str, list(found)[:5]))}" if isinstance(found, dict) else ""
        raise ModelError(
            f"weights {path} hold a {type(found).__name__}{keys}, expected a state dict of tensors, by itself or under "
            "state_dict, model_state_dict or model; save the network's state_dict()"
        )
    return found


def _format_names(verb: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{verb} {', '.join(names[:3])}{more}"
