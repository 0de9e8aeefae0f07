"""Export of a network: its weights as safetensors, its description as JSON."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blendsearch.data.splits import Splits
from blendsearch.errors import RunError, format_reason
from blendsearch.fitness.evaluator import make_request
from blendsearch.fitness.runtimes import PassTimes, measure_in_runtimes
from blendsearch.pipeline.problem.costs import describe_conditions, make_conditions
from blendsearch.pipeline.problem.inputs import is_in_python
from blendsearch.pipeline.problem.persistence import attach_stored_tune
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.results.export.description import (
    DESCRIPTION,
    FORMAT,
    WEIGHTS,
    ExportDescription,
    LatencyPair,
    MeasuredLatency,
)
from blendsearch.results.export.formats import WrittenFile, check_formats, write_format
from blendsearch.results.export.int8 import write_int8
from blendsearch.results.export.loader import load
from blendsearch.results.export.model_card import render_model_card
from blendsearch.results.network import list_decomposable_layers, list_decomposed_layers, list_removed_outputs
from blendsearch.results.summary import has_accuracy, select_final, select_network
from blendsearch.runs.checkpoint import write_atomically
from blendsearch.runs.drafts import open_draft_folder
from blendsearch.runs.files import apply_umask, check_encoding
from blendsearch.runs.provenance import hash_arrays
from blendsearch.runs.records import Evaluation
from blendsearch.runs.run import ELASTIC_FILE, Run
from blendsearch.structure.groups import Cut, unpack_cut
from blendsearch.structure.surgery import narrow
from blendsearch.zoo.factory import build_model

CARD = "README.md"


@dataclass(frozen=True)
class ExportResult:
    """The folder of an exported network, and measurements of the module that was loaded back from it.

    Attributes
    ----------
    val_loss, val_accuracy: evaluated again after loading back; those of the search where the network was not there.
    latency: of one pass on this device; None where not measured.
    files: the files written; of further formats also the difference of their outputs from the module's.
    dense_bytes: the size of the dense network's weights as safetensors.
    """

    folder: Path
    id: int
    macs: int
    params: int
    macs_ratio: float
    params_ratio: float
    fidelity: str
    val_loss: float
    val_accuracy: float | None
    checked: bool
    latency: MeasuredLatency | None
    files: tuple[WrittenFile, ...]
    dense_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "folder": str(self.folder), "files": [asdict(item) for item in self.files]}


def export(run: Run, problem: Problem, selector: str, folder: Path, formats: Sequence[str] = ()) -> ExportResult:
    """Write the network `selector` (``best``, ``knee`` or an id) to `folder`, which must be new or empty.

    The network is cut and recovered as for its evaluation, written, loaded back and evaluated again, so that the files
    match the front. A network that had a long fine-tune is exported after it. `formats` are further ones: ``pt2``,
    ``onnx``, and ``int8``, which is made from ``onnx``. The folder is written completely or not at all. Raises RunError
    when the loss differs, or a format cannot be written or gives other outputs.
    """
    row = select_network(run, selector)
    check_folder(folder)
    check_formats(formats)
    module, row = rebuild_network(run, problem, row)
    cut = unpack_cut(row.cut, problem.structure.maps.channels)
    facts = _describe_export(run, row, problem)
    shape = facts.input["shape"]
    facts = replace(facts, latency=_measure_latency(problem, cut, shape))
    with _open_draft_folder(folder) as draft:
        found = _write(draft, _collect_tensors(module), facts)
        if is_in_python(run.config):
            loaded = load(draft, model=problem.model)
        else:
            loaded = load(draft, factory=lambda **given: build_model(run.config.model.factory, given))
        plain = [name for name in ("pt2", "onnx") if name in formats or (name == "onnx" and "int8" in formats)]
        found += [write_format(loaded, shape, draft / f"network.{name}") for name in plain]
        evaluated = problem.evaluator.evaluate_network(
            loaded.to(problem.evaluator.device), "val", row.seed, row.fidelity
        )
        if not abs(evaluated.loss - (row.loss or 0.0)) <= 1e-3 * max(1.0, abs(evaluated.loss)):
            copy = f", or restore {run.path / 'finals'} from a copy" if row.fidelity == "final" else ""
            raise RunError(
                f"network {row.id} gives validation loss {evaluated.loss:.4f} after export, {row.loss:.4f} in the "
                f"search: export on the device and with the versions it was searched with{copy}"
            )
        if "int8" in formats:
            source = draft / "network.onnx"
            found.append(write_int8(source, problem.evaluator, row.seed, has_accuracy=has_accuracy(run)))
        found.append(_write_card(run, facts, found, draft))
    accuracy = 1 - evaluated.error if has_accuracy(run) else None
    return _make_result(run, row, folder, facts.latency, found, evaluated.loss, accuracy, True)


def export_stored_weights(run: Run, selector: str, folder: Path) -> ExportResult:
    """Write a network of a run from Python objects from the weights that the run keeps, without the dense network.

    Nothing is evaluated or measured. Raises RunError where the run keeps no weights of it.
    """
    row = select_network(run, selector)
    check_folder(folder)
    final = select_final(run, row)
    repeat = None if final is None else final.repeat
    if final is not None:
        row = row._replace(fidelity="final", loss=final.loss, error=final.error)
    if not run.has_weights(row.digest, repeat):
        raise RunError(
            f"run {run.name!r} keeps no weights of network {row.id}, only of those on its front once it has finished: "
            f"export it in Python, blendsearch.open({run.name!r}, model=, data=).network({row.id}).export(folder)"
        )
    if hash_arrays(run.read_arrays("dense")) != run.provenance["weights_sha256"]:
        raise RunError(f"run {run.name!r}: dense.safetensors is not the one the run was made with: restore it")
    tensors = {name: torch.from_numpy(array) for name, array in run.read_weights(row.digest, repeat).items()}
    facts = _describe_export(run, row, None)
    with _open_draft_folder(folder) as draft:
        found = _write(draft, tensors, facts)
        found.append(_write_card(run, facts, found, draft))
    accuracy = 1 - (row.error or 0.0) if has_accuracy(run) else None
    return _make_result(run, row, folder, None, found, row.loss or 0.0, accuracy, False)


def check_folder(folder: Path) -> None:
    """Raise RunError unless `folder` is new or empty."""
    check_encoding(folder.absolute())
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} is not empty: export to a new folder")
    if folder.exists() and folder.samefile("."):  # the folder is replaced as a whole
        raise RunError("the current folder cannot be replaced: export to a new folder")


def _write(draft: Path, tensors: dict[str, Tensor], facts: ExportDescription) -> list[WrittenFile]:
    from safetensors.torch import save_file

    save_file(tensors, draft / WEIGHTS)
    apply_umask(draft / WEIGHTS)
    write_atomically(draft / DESCRIPTION, json.dumps(facts.to_dict(), indent=1))
    return [WrittenFile(name, (draft / name).stat().st_size) for name in (WEIGHTS, DESCRIPTION)]


def _write_card(run: Run, facts: ExportDescription, files: list[WrittenFile], draft: Path) -> WrittenFile:
    text = render_model_card(run, str(facts.id), facts, files)
    write_atomically(draft / CARD, text)
    return WrittenFile(CARD, len(text.encode("utf-8")))


def _make_result(
    run: Run,
    row: Evaluation,
    folder: Path,
    latency: MeasuredLatency | None,
    files: list[WrittenFile],
    loss: float,
    accuracy: float | None,
    checked: bool,
) -> ExportResult:
    dense = run.structure["dense"]
    return ExportResult(
        folder,
        row.id,
        row.macs,
        row.params,
        row.macs / dense["macs"],
        row.params / dense["params"],
        row.fidelity,
        loss,
        accuracy,
        checked,
        latency,
        tuple(files),
        (run.path / "dense.safetensors").stat().st_size,
    )


@contextmanager
def _open_draft_folder(folder: Path) -> Iterator[Path]:
    """Open a folder that becomes `folder` at the end; after a failure nothing is left of it."""
    from safetensors import SafetensorError

    try:
        with open_draft_folder(folder) as draft:
            yield draft
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or format_reason(error)
        raise RunError(f"{folder} could not be written: {reason}") from error


def _measure_latency(problem: Problem, cut: Cut, shape: list[int]) -> MeasuredLatency:
    """Measure one pass of the dense and of the pruned network: in torch and, where possible, in ONNX Runtime."""
    channels, height, width = shape
    conditions = make_conditions(problem.config.budget, (channels, height, width))
    times = measure_in_runtimes(problem.model, problem.structure.maps, cut, conditions)
    where = describe_conditions(problem.model, problem.config.budget.without_runtime())
    pair = _describe_times(times["torch"])
    found: MeasuredLatency = {"dense_ms": pair["dense_ms"], "pruned_ms": pair["pruned_ms"], "where": where}
    if "onnxruntime" in times:
        found["onnxruntime"] = _describe_times(times["onnxruntime"])
    return found


def _describe_times(times: PassTimes) -> LatencyPair:
    return {"dense_ms": 1e3 * times.dense, "pruned_ms": 1e3 * times.pruned}


def rebuild_network(run: Run, problem: Problem, row: Evaluation) -> tuple[nn.Module, Evaluation]:
    """Rebuild the network of `row` as it was evaluated, on the CPU, and return it with its row.

    After a long fine-tune both are those of the fine-tuned network.
    """
    cut = unpack_cut(row.cut, problem.structure.maps.channels)
    final = select_final(run, row)
    if final is None:
        problem = attach_stored_tune(run, problem)  # a problem from before the search has no tuned network
        if run.config.training.elastic.epochs and problem.evaluator.tuned is None and not cut.all():
            raise RunError(f"run {run.name!r}: {ELASTIC_FILE}.safetensors is missing: restore it")
        module = problem.evaluator.build_network(make_request(cut, row.fidelity, run.config.seed)).cpu()
        # in the usual memory format, not in the one that was fastest to evaluate
        return module.to(memory_format=torch.contiguous_format), row
    module = narrow(problem.model, problem.structure.maps, cut).cpu()
    try:
        _load_weights(module, run.read_weights(final.digest, final.repeat))
    except (ValueError, TypeError, RuntimeError) as error:
        raise RunError(
            f"the weights in {run.path / 'finals'} do not fit network {row.id} ({' '.join(str(error).split())}): "
            "restore them from a copy"
        ) from error
    return module.eval(), row._replace(fidelity="final", loss=final.loss, error=final.error)


def _load_weights(module: nn.Module, weights: Mapping[str, NDArray[Any]]) -> None:
    """Load stored weights. Raises ValueError or RuntimeError where one is missing or does not fit."""
    if missing := module.state_dict().keys() - weights.keys():
        raise ValueError(f"{min(missing)} is missing")
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if name in weights:  # a buffer that is not part of the state is as the cut made it
                stored = torch.from_numpy(weights[name])
                if stored.is_floating_point() != tensor.is_floating_point():
                    raise ValueError(f"{name} has type {weights[name].dtype}")
                tensor.copy_(stored.reshape(tensor.shape))


def _describe_export(run: Run, row: Evaluation, problem: Problem | None) -> ExportDescription:
    groups = run.structure["groups"]
    ends = np.cumsum([group["channels"] for group in groups])
    cut, layers = (
        unpack_cut(row.cut, int(ends[-1]) + len(list_decomposable_layers(run))),
        list_decomposed_layers(run, row),
    )
    parts = np.split(cut[: ends[-1]], ends[:-1])
    folded = run.structure.get("folded", [])
    padded = np.append(cut[: ends[-1]], True)
    sizes = {name: int(padded[source].sum()) for name, source in run.structure.get("sizes", {}).items()}
    removed = list_removed_outputs(run.structure, cut)
    kept = {group["name"]: np.flatnonzero(part).tolist() for group, part in zip(groups, parts, strict=True)}
    taken = run.structure.get("input") or _require_splits(problem).describe_input()
    has_numbers = row.error is not None and has_accuracy(run)
    return ExportDescription(
        format=FORMAT if removed else 3 if sizes or folded else 2 if layers else 1,
        factory=run.config.model.factory,
        arguments=run.config.model.arguments,
        kept=kept,
        decomposed=tuple(layers) if layers else None,
        sizes=sizes or None,
        folded=tuple(folded) or None,
        removed=removed or None,
        input=taken,
        macs=row.macs,
        params=row.params,
        dense=run.structure["dense"],
        fidelity=row.fidelity,
        val_loss=row.loss,
        val_accuracy=1 - (row.error or 0.0) if has_numbers else None,
        run=run.name,
        id=row.id,
        cut=row.digest,
    )


def _require_splits(problem: Problem | None) -> Splits:
    assert problem is not None  # a run from Python objects stores its input
    return problem.splits


def _collect_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Collect all parameters and buffers by name, also those outside the state dict."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return {name: tensor.detach().contiguous() for name, tensor in named}
