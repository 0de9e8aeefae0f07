"""A problem recorded in a run directory, and restored from one."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import nn

from blendsearch.errors import RunError
from blendsearch.fitness.device import resolve_device
from blendsearch.pipeline.problem.base_network import input_shape
from blendsearch.pipeline.problem.costs import conditions_text, latency_facts, with_latency, with_memory
from blendsearch.pipeline.problem.from_config import allowed_widths
from blendsearch.pipeline.problem.inputs import BY_NAME, Given, check_given, network_of, splits_of
from blendsearch.pipeline.problem.problem import Report, Setting, _setting, _structure, _Traced, _use_threads
from blendsearch.runs.compatibility import code_digests
from blendsearch.runs.config.schema import Config
from blendsearch.runs.cost_files import FILE, cost_arrays, stored_oracle
from blendsearch.runs.provenance import arrays_digest, provenance
from blendsearch.runs.records import Inherited
from blendsearch.runs.run import Run, create_run
from blendsearch.runs.score_files import read_scores, score_arrays, score_facts
from blendsearch.structure.latency_model import LatencyModel
from blendsearch.structure.trace import Structure


def record(
    setting: Setting,
    folder: Path,
    name: str,
    command: list[str],
    parent: Mapping[str, Any] | None = None,
    inherited: Sequence[Inherited] = (),
) -> Run:
    """Make the run directory of a prepared search; a fork states its `parent`, and what it has `inherited`."""
    weights, scores = dense_arrays(setting.model), score_arrays(setting.table)
    origin = provenance(
        command,
        str(setting.evaluator.device),
        arrays_digest(weights),
        setting.splits.digest(),
        arrays_digest(scores),
        code_digests(setting.config.model.factory),
    )
    if parent is not None:
        origin["parent"] = dict(parent)
    structure = {
        "groups": _listed(setting.structure),
        "frozen": [asdict(item) for item in setting.structure.frozen],
        **({"layers": list(setting.structure.maps.layers)} if setting.structure.maps.layers else {}),
        "dense": dict(setting.structure.oracle.dense),
        **score_facts(setting.table, setting.clusters),
        "splits": setting.splits.note,
        "input": setting.splits.input_facts(),
    }
    task = setting.evaluator.recipe.task
    if task.names():
        structure |= {"task": task.names(), "error": setting.tells_error, "trains_on_classes": task.classes}
    arrays = {"dense": weights, "scores": scores}
    if costs := cost_arrays(setting.structure.oracle):
        arrays[FILE] = costs
    latency = setting.structure.oracle.further.get("latency")
    if isinstance(latency, LatencyModel):
        structure["latency"] = latency_facts(latency) | {"where": conditions_text(setting.model, setting.config.budget)}
    return create_run(folder, name, setting.config, origin, structure, arrays, inherited)


def restore(
    run: Run,
    fork: Config | None = None,
    report: Report = lambda kind, facts: None,
    given: Given = BY_NAME,
) -> Setting:
    """The setting that `run` was searched in, made again: same weights, same scores, nothing trained or measured anew.

    `fork`: another config for the same model, data and criteria; costs that it budgets for the first time are measured.
    Raises RunError when data or structure are not what the run was made with, and where what was handed over in Python
    is not `given` again.
    """
    check_given(run, given)
    config = fork or run.config
    device = resolve_device(config.fitness.device)
    _use_threads(config)
    splits = splits_of(config, given)
    if splits.digest() != run.provenance["data_sha256"]:
        raise RunError(
            f"run {run.name!r} was made with other data than {config.data.dataset!r} now holds: restore that data"
        )
    weights = run.arrays("dense")
    if arrays_digest(weights) != run.provenance["weights_sha256"]:
        raise RunError(f"run {run.name!r}: dense.safetensors is not the one the run was made with: restore it")
    scores = arrays_digest(run.arrays("scores"))
    if run.provenance.get("scores_sha256", scores) != scores:
        raise RunError(f"run {run.name!r}: scores.safetensors is not the one its criteria gave: restore it")
    model = network_of(config, weights, given)
    structure = _structure(config, model, splits)
    groups, layers = _listed(structure), list(structure.maps.layers)
    if groups != run.structure["groups"] or layers != run.structure.get("layers", []):
        raise RunError(
            f"run {run.name!r} found other groups in this network: it was made by other code or another version of "
            "torch; install the versions in its run.json"
        )
    structure = replace(structure, oracle=stored_oracle(run, structure, config.budget))
    missing = {"memory", "latency"} & config.budget.spans().keys() - structure.oracle.further.keys()
    if "memory" in missing:
        structure = replace(structure, oracle=with_memory(model, structure, input_shape(splits)))
    model = model.to(device)
    if "latency" in missing:
        shape, allowed = input_shape(splits), allowed_widths(config, structure)
        oracle = with_latency(model.eval(), structure.maps, structure.oracle, allowed, config, shape, report)
        structure = replace(structure, oracle=oracle)
    task = replace(given.task, classes=run.structure.get("trains_on_classes", True))
    traced = _Traced(model, structure, splits, device, True, task, run.structure.get("error", True))
    return _setting(config, traced, *read_scores(run))


def dense_arrays(model: nn.Module) -> dict[str, NDArray[Any]]:
    """The state of `model` as arrays."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}


def _listed(structure: Structure) -> list[dict[str, Any]]:
    return [{"name": group.name, "channels": group.channels} for group in structure.maps.groups]
