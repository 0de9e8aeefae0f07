"""A found network on its way out: safetensors, a JSON that says how to hang them, and back again without pickle."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from blendsearch.errors import ModelError, RunError
from blendsearch.fitness.evaluation import request
from blendsearch.inspect.summary import final_of, pick
from blendsearch.runs.checkpoint import write_atomically
from blendsearch.runs.directory import Run
from blendsearch.runs.store import Evaluation
from blendsearch.search.setting import Setting
from blendsearch.structure.depthwise import halves
from blendsearch.structure.groups import unpacked
from blendsearch.structure.surgery import narrow, rehung
from blendsearch.zoo.factory import build_model

FORMAT = 2
"""The newest layout: 2 where layers are decomposed, 1 where none is, which readers of layout 1 understand too."""
WEIGHTS, DESCRIPTION = "weights.safetensors", "network.json"


@dataclass(frozen=True)
class Exported:
    """Where a network was written, and what was measured on the module read back from there."""

    folder: Path
    id: int
    macs: int
    params: int
    macs_ratio: float
    val_loss: float
    val_accuracy: float


def export(run: Run, setting: Setting, what: str, folder: Path) -> Exported:
    """Write the network that `what` names (``best``, ``knee`` or an id) to `folder`, which must be new or empty.

    The network is cut and recovered as it was for its evaluation, written, loaded back and judged again: what the front
    reports is what is in the files. One that was fine-tuned for long leaves so. Raises RunError when the loss differs.
    """
    from safetensors.torch import save_file

    row = pick(run, what)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} is not empty: export to a new folder")
    made = not folder.exists()
    cut = unpacked(row.cut, setting.structure.maps.channels)
    final = final_of(run, row)
    if final is None:
        module = setting.evaluator.network(request(cut, row.fidelity, run.config.seed)).cpu()
    else:
        module = narrow(setting.model, setting.structure.maps, cut).cpu()
        weights = run.kept_weights(final.digest, final.repeat)
        module.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
        row = row._replace(fidelity="final", loss=final.loss, error=final.error)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(_contiguous(module), folder / WEIGHTS)
        write_atomically(folder / DESCRIPTION, json.dumps(_description(run, setting, row, cut), indent=1))
        loaded = load(folder, factory=lambda **given: build_model(run.config.model.factory, given))
        loss, wrong = setting.evaluator.measure(loaded.to(setting.evaluator.device), "val")
        if abs(loss - (row.loss or 0.0)) > 1e-3 * max(1.0, loss):
            raise RunError(
                f"network {row.id} gives validation loss {loss:.4f} after export, {row.loss:.4f} in the search: "
                "export on the device and with the versions it was searched with"
            )
    except OSError as error:
        _remove(folder, made)
        raise RunError(f"{folder} could not be written: {error.strerror or error}") from error
    except BaseException:
        _remove(folder, made)
        raise
    dense = setting.structure.oracle.dense
    return Exported(folder, row.id, row.macs, row.params, row.macs / dense["macs"], loss, 1 - wrong)


def load(folder: str | Path, factory: Callable[..., nn.Module] | None = None) -> nn.Module:
    """The narrow module that `export` wrote to `folder`, in evaluation mode on the CPU.

    Reads safetensors and JSON only. A network of the zoo or of torchvision is built by its name; one made by a person's
    own ``module:function`` needs that function as `factory`, since a name in a file is never imported. Raises
    ModelError when the files are missing, damaged, from a newer blendsearch, or do not fit the factory's network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    try:
        facts = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
    except FileNotFoundError as error:
        raise ModelError(
            f"{error.filename or folder} is not there: expected a folder that blendsearch exported"
        ) from error
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"the network in {folder} is damaged: {error}") from error
    if not isinstance(facts, dict) or not isinstance(facts.get("format"), int):
        raise ModelError(f"{folder / DESCRIPTION} does not describe a network that blendsearch exported")
    if facts["format"] > FORMAT:
        raise ModelError(
            f"the network in {folder} was written by a newer blendsearch (format {facts['format']}): update"
        )
    arguments = dict(facts["arguments"])
    arguments.pop("weights", None)  # pretrained weights would be fetched only to be replaced
    dense = factory(**arguments) if factory is not None else build_model(facts["factory"], arguments, trusted=False)
    try:
        for name in facts.get("decomposed", []):
            dense.set_submodule(name, halves(dense.get_submodule(name)))
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelError(
            f"the network in {folder} does not fit {facts['factory']!r}: a layer that is said to be decomposed is no "
            f"convolution of it ({error})"
        ) from error
    names = {id(tensor): name for name, tensor in [*dense.named_parameters(), *dense.named_buffers()]}

    def stored(tensor: Tensor) -> Tensor:
        name = names[id(tensor)]
        if name not in tensors or tensors[name].ndim != tensor.ndim or tensors[name].dtype != tensor.dtype:
            raise ModelError(
                f"the network in {folder} does not fit {facts['factory']!r}: {name} is missing or another kind"
            )
        return tensors[name]

    surplus = tensors.keys() - set(names.values())
    if surplus:
        raise ModelError(f"the network in {folder} does not fit {facts['factory']!r}: it has no {min(surplus)}")
    return rehung(dense, stored).eval()


def _description(run: Run, setting: Setting, row: Evaluation, cut: Any) -> dict[str, Any]:
    maps, splits = setting.structure.maps, setting.splits
    kept = {
        group.name: np.flatnonzero(cut[start : start + group.channels]).tolist()
        for group, start in zip(maps.groups, maps.offsets[:-1], strict=True)
    }
    height, width, channels = splits.train.shape
    return {
        "format": FORMAT if maps.decomposed(cut) else 1,
        "factory": run.config.model.factory,
        "arguments": run.config.model.arguments,
        "kept": kept,
        **({"decomposed": list(maps.decomposed(cut))} if maps.decomposed(cut) else {}),
        "input": {
            "shape": [channels, height, width],
            "mean": [float(value) for value in splits.mean],
            "std": [float(value) for value in splits.std],
            "scaled_to": [0, 1],
        },
        "macs": row.macs,
        "params": row.params,
        "dense": dict(setting.structure.oracle.dense),
        "fidelity": row.fidelity,
        "val_loss": row.loss,
        "val_accuracy": None if row.error is None else 1 - row.error,
        "run": run.name,
        "id": row.id,
        "cut": row.digest,
    }


def _contiguous(module: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by name, those not in the state dict too: the narrow network needs its own."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return {name: tensor.detach().contiguous() for name, tensor in named}


def _remove(folder: Path, made: bool) -> None:
    for name in (WEIGHTS, DESCRIPTION):
        (folder / name).unlink(missing_ok=True)
    if made:
        shutil.rmtree(folder, ignore_errors=True)
