"""All that a search stands on, made from a config, or made again from a run directory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from blendsearch.blend.allocation import Widths, check_reachable, reachable, widths
from blendsearch.blend.clustering import Clusters, cluster_groups
from blendsearch.blend.decode import Decoder
from blendsearch.blend.groupwise import GroupSpace, space_of
from blendsearch.blend.networkwide import NetworkSpace, network_space_of
from blendsearch.criteria.registry import load_criteria, pool
from blendsearch.criteria.score import score_table
from blendsearch.criteria.table import ScoreTable
from blendsearch.errors import ConfigError, ModelError, RunError
from blendsearch.fitness.data import DataSpec, Splits, batches, check_labels, load_splits
from blendsearch.fitness.device import Precision, resolve_device
from blendsearch.fitness.evaluation import Evaluator
from blendsearch.fitness.recovery import Recipe
from blendsearch.fitness.repair import Repair, repair_for
from blendsearch.fitness.training import Schedule, train
from blendsearch.runs.config import Config, ScheduleConfig
from blendsearch.runs.directory import Run, create_run
from blendsearch.runs.provenance import arrays_digest, provenance
from blendsearch.runs.scores import read_scores, score_arrays, score_facts
from blendsearch.runs.store import Evaluation, Inherited
from blendsearch.search.costs import (
    FILE,
    conditions_text,
    cost_arrays,
    latency_facts,
    stored_oracle,
    with_latency,
    with_memory,
)
from blendsearch.structure.decomposable import with_depthwise
from blendsearch.structure.depthwise import misfit
from blendsearch.structure.groups import unpacked
from blendsearch.structure.latency import LatencyModel
from blendsearch.structure.trace import Structure, trace
from blendsearch.zoo.factory import build_model
from blendsearch.zoo.weights import load_weights

Report = Callable[[str, Mapping[str, Any]], None]
"""Hears what happens: the kind of event, and its facts."""


@dataclass(frozen=True, eq=False)
class Setting:
    """A network, its structure and scores, the data, and what decodes and judges candidates."""

    config: Config
    structure: Structure
    table: ScoreTable
    clusters: Clusters
    decoder: Decoder
    evaluator: Evaluator

    @property
    def model(self) -> nn.Module:
        return self.evaluator.model

    @property
    def splits(self) -> Splits:
        return self.evaluator.splits

    def costs(self, row: Evaluation) -> tuple[float, ...]:
        """What `row` spends of each cost whose budget spans a range, as shares of the dense cost."""
        maps, oracle = self.structure.maps, self.structure.oracle
        counts = maps.counts(unpacked(row.cut, maps.channels))
        return tuple(float(oracle.ratio(name, counts)) for name in self.decoder.spanned)

    def objectives(self, row: Evaluation) -> tuple[float, ...]:
        """What is minimised, for a judged `row`: loss and error at one budget, loss and costs where budgets span.

        The paper's method (`search.cfbs`) minimises the error, and the loss only between equals.
        """
        if row.loss is None or row.error is None:
            raise ValueError(f"network {row.id} was not judged: {row.failure}")
        if self.config.method == "cfbs":
            return row.error, row.loss
        return row.loss, *(self.costs(row) or (row.error,))


def prepare(config: Config, report: Report, beside: Run | None = None) -> Setting:
    """Load, train where asked, trace and score. Writes nothing; raises a BlendsearchError for whatever does not fit.

    With `beside`, the dense network is that run's, and so is what budgets are counted by: nothing is trained, and no
    latency measured.
    """
    traced = _traced(config, report, beside)
    # before anything that takes time: a budget that cannot be met ends here
    spans = config.budget.spans()
    allowed = _widths(config, traced.structure)
    least = {name: spans[name][0] for name in spans if name != "latency"}
    check_reachable(traced.structure.oracle.all_decomposed, allowed, least)
    _given(config.budget.keep, traced.structure, allowed)
    if "latency" in spans and beside is None:
        structure, shape = traced.structure, _input_shape(traced.splits)
        oracle = with_latency(traced.model.eval(), structure.maps, structure.oracle, allowed, config, shape, report)
        traced = replace(traced, structure=replace(structure, oracle=oracle))
    table, clusters = _scored(config, traced, report)
    return _setting(config, traced, table, clusters)


def score(config: Config, report: Report) -> tuple[ScoreTable, Clusters]:
    """What `prepare` finds out about the criteria, whatever the budget: the score table, and its clusters per group."""
    return _scored(config, _traced(config, report), report)


def record(
    setting: Setting,
    folder: Path,
    name: str,
    command: list[str],
    parent: Mapping[str, Any] | None = None,
    inherited: Sequence[Inherited] = (),
) -> Run:
    """Make the run directory of a prepared search; a fork states its `parent`, and what it has `inherited`."""
    weights = dense_arrays(setting.model)
    origin = provenance(command, str(setting.evaluator.device), arrays_digest(weights), setting.splits.digest())
    if parent is not None:
        origin["parent"] = dict(parent)
    structure = {
        "groups": _listed(setting.structure),
        "frozen": [asdict(item) for item in setting.structure.frozen],
        **({"layers": list(setting.structure.maps.layers)} if setting.structure.maps.layers else {}),
        "dense": dict(setting.structure.oracle.dense),
        **score_facts(setting.table, setting.clusters),
        "splits": setting.splits.note,
    }
    arrays = {"dense": weights, "scores": score_arrays(setting.table)}
    if costs := cost_arrays(setting.structure.oracle):
        arrays[FILE] = costs
    latency = setting.structure.oracle.further.get("latency")
    if isinstance(latency, LatencyModel):
        structure["latency"] = latency_facts(latency) | {"where": conditions_text(setting.model, setting.config.budget)}
    return create_run(folder, name, setting.config, origin, structure, arrays, inherited)


def restore(run: Run, fork: Config | None = None, report: Report = lambda kind, facts: None) -> Setting:
    """The setting that `run` was searched in, made again: same weights, same scores, nothing trained or measured anew.

    `fork`: another config for the same model, data and criteria; costs that it budgets for the first time are measured.
    Raises RunError when data or structure are not what the run was made with.
    """
    config = fork or run.config
    device = resolve_device(config.fitness.device)
    _use_threads(config)
    splits = splits_of(config)
    if splits.digest() != run.provenance["data_sha256"]:
        raise RunError(
            f"run {run.name!r} was made with other data than {config.data.dataset!r} now holds: restore that data"
        )
    weights = run.arrays("dense")
    if arrays_digest(weights) != run.provenance["weights_sha256"]:
        raise RunError(f"run {run.name!r}: dense.safetensors is not the one the run was made with: restore it")
    model = network_of(config, weights)
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
        structure = replace(structure, oracle=with_memory(model, structure, _input_shape(splits)))
    model = model.to(device)
    if "latency" in missing:
        shape, allowed = _input_shape(splits), _widths(config, structure)
        oracle = with_latency(model.eval(), structure.maps, structure.oracle, allowed, config, shape, report)
        structure = replace(structure, oracle=oracle)
    return _setting(config, _Traced(model, structure, splits, device), *read_scores(run))


def dense_arrays(model: nn.Module) -> dict[str, NDArray[Any]]:
    """The state of `model` as arrays."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}


@dataclass(frozen=True, eq=False)
class _Traced:
    """A dense network on its device, what can be cut of it, and its data."""

    model: nn.Module
    structure: Structure
    splits: Splits
    device: torch.device
    trained: bool = False


def _traced(config: Config, report: Report, beside: Run | None = None) -> _Traced:
    load_criteria(config.criteria.modules)
    pool(config.criteria.pool)  # a wrong name ends here, before data are read
    device = resolve_device(config.fitness.device)
    _use_threads(config)
    splits = splits_of(config)
    model = network_of(config, None if beside is None else beside.arrays("dense"))
    structure = _structure(config, model, splits)
    check_labels(splits, _outputs(model, splits))
    if beside is not None:
        structure = replace(structure, oracle=stored_oracle(beside, structure))
    elif "memory" in config.budget.spans():
        structure = replace(structure, oracle=with_memory(model, structure, _input_shape(splits)))
    least = reachable(structure.oracle.all_decomposed, _widths(config, structure))
    report("traced", {"groups": len(structure.maps.groups), "frozen": len(structure.frozen), "reachable": least})
    return _Traced(model.to(device), structure, splits, device, beside is not None)


def _scored(config: Config, traced: _Traced, report: Report) -> tuple[ScoreTable, Clusters]:
    """Train the network where it has no weights, then score and cluster."""
    model, splits, device = traced.model, traced.splits, traced.device
    if config.model.weights is None and config.model.train is not None and not traced.trained:
        train_base(model, splits, config.model.train, config.fitness.precision, device, config.seed, report)
    rng = np.random.default_rng([config.seed, 1])
    asked = config.criteria

    def calibration() -> Any:
        return batches(
            splits.train,
            batch_size=min(asked.images, 64),
            mean=splits.mean,
            std=splits.std,
            device=device,
            rng=rng,
            augment=asked.augment,
            limit=asked.images,
        )

    chosen = pool(asked.pool)
    table = score_table(model, traced.structure, chosen, calibration, rng.spawn(1)[0], asked.temperature)
    report("scored", {"criteria": list(table.criteria), "left_out": [asdict(item) for item in table.left_out]})
    return table, cluster_groups(table, asked.clustering, asked.clusters, config.seed)


def _setting(config: Config, traced: _Traced, table: ScoreTable, clusters: Clusters) -> Setting:
    structure, model = traced.structure, traced.model
    allowed = _widths(config, structure)
    decoder = Decoder(
        replace(_space(config, table, clusters), layers=len(structure.maps.layers)),
        table,
        structure.oracle,
        allowed,
        config.budget.spans(),
        given=_given(config.budget.keep, structure, allowed),
        uniform=config.allocation == "uniform",
        misfit=np.array([misfit(model.get_parameter(f"{name}.weight")) for name in structure.maps.layers]),
    )
    fitness = config.fitness
    recipe = Recipe(
        fitness.recalibration_images,
        fitness.batch_size,
        _schedule(fitness.tuning),
        _schedule(config.finals.tuning),
        config.finals.distillation,
        fitness.precision,
    )
    model.eval()
    repair = _repair(config, structure, model, traced.splits, traced.device)
    evaluator = Evaluator(model, structure.maps, traced.splits, recipe, traced.device, repair, fitness.against)
    return Setting(config, structure, table, clusters, decoder, evaluator)


def _structure(config: Config, model: nn.Module, splits: Splits) -> Structure:
    """The structure of `model`, on the CPU, with the layers that may be decomposed where the config asks for it."""
    structure = trace(model, _input_shape(splits))
    return structure if config.transform == "none" else with_depthwise(model, structure, _input_shape(splits))


def _space(config: Config, table: ScoreTable, clusters: Clusters) -> GroupSpace | NetworkSpace:
    if config.method == "cfbs":
        return space_of(table, clusters, means=False)
    if config.search.blend == "group":
        return space_of(table, clusters)
    return network_space_of(table, clusters, deviations=config.search.deviations)


def _widths(config: Config, structure: Structure) -> Widths:
    """The widths that the budget lets each group have."""
    budget = config.budget
    return widths(structure.maps.sizes, budget.min_channels, budget.min_keep, budget.round_to)


def _repair(
    config: Config, structure: Structure, model: nn.Module, splits: Splits, device: torch.device
) -> Repair | None:
    """What every cut is repaired with; its targets are worked out anew where a run is restored.

    Without `fitness.repair` only what a cut decomposes is fitted, and nothing where no transform is asked for.
    """
    fitness = config.fitness
    if fitness.repair == "none" and not structure.maps.layers:
        return None
    return repair_for(
        model,
        structure.maps,
        splits,
        images=fitness.recalibration_images,
        device=device,
        renewed=fitness.fidelity != "raw",
        refit=fitness.repair != "none",
        precision=fitness.precision,
    )


def _given(keep: float | dict[str, float] | None, structure: Structure, allowed: Widths) -> NDArray[np.int64] | None:
    """The channels kept per group where the config gives them. Raises ConfigError for a pattern that names no group."""
    if keep is None:
        return None
    patterns = keep if isinstance(keep, dict) else {"*": keep}
    names = [group.name for group in structure.maps.groups]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(f"budget.keep: no group is called {pattern!r}: groups are {', '.join(names)}")
    ratios = [next((patterns[item] for item in patterns if fnmatchcase(name, item)), 1.0) for name in names]
    return allowed.rounded(np.array(ratios) * allowed.sizes)


def splits_of(config: Config) -> Splits:
    """The three splits, drawn by `data.split_seed` where it is given and by the run's seed where not."""
    seed = config.seed if config.data.split_seed is None else config.data.split_seed
    return load_splits(DataSpec(**config.data.model_dump(exclude={"split_seed"})), seed)


def network_of(config: Config, dense: Mapping[str, NDArray[Any]] | None = None) -> nn.Module:
    """The dense network on the CPU, with the weights given, or those of a file where the config names one."""
    torch.manual_seed(config.seed)  # factories draw their first weights from torch's global stream
    model = build_model(config.model.factory, config.model.arguments)
    if dense is not None:
        model.load_state_dict({name: torch.from_numpy(array) for name, array in dense.items()}, strict=False)
    elif config.model.weights is not None:
        load_weights(model, Path(config.model.weights))
    return model


def train_base(
    model: nn.Module,
    splits: Splits,
    schedule: ScheduleConfig,
    precision: Precision,
    device: torch.device,
    seed: int,
    report: Report,
) -> None:
    """Train the dense network in place, telling `report` of each epoch."""

    def progress(done: float, loss: float) -> None:
        report("training", {"done": done, "loss": loss})

    train(model, splits, _schedule(schedule), device, np.random.default_rng([seed, 0]), progress, precision)


def _outputs(model: nn.Module, splits: Splits) -> int:
    """How many classes the network tells apart."""
    with torch.inference_mode():
        output = model.eval()(torch.zeros(2, *_input_shape(splits)))
    if not isinstance(output, torch.Tensor) or output.ndim != 2:
        what = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ModelError(f"the model's output is {what}, expected logits of shape (images, classes)")
    return int(output.shape[1])


def _input_shape(splits: Splits) -> tuple[int, int, int]:
    height, width, channels = splits.train.shape
    return channels, height, width


def _listed(structure: Structure) -> list[dict[str, Any]]:
    return [{"name": group.name, "channels": group.channels} for group in structure.maps.groups]


def _schedule(config: ScheduleConfig) -> Schedule:
    return Schedule(**config.model_dump())


def _use_threads(config: Config) -> None:
    if config.engine.threads is not None:
        torch.set_num_threads(config.engine.threads)
