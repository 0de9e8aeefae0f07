"""Conversion of the arguments of the Python API to a config and to user inputs."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from torch import nn
from torch.utils.data import DataLoader

from blendsearch.data.sources import UserData
from blendsearch.errors import ConfigError
from blendsearch.pipeline.problem.inputs import UserInputs
from blendsearch.python.budgets import Budget, BudgetShare
from blendsearch.python.options import (
    ConfigValue,
    Data,
    InputOptions,
    ReopenOptions,
    SearchOptions,
    Section,
)
from blendsearch.runs.config.loading import parse_config
from blendsearch.runs.config.schema import PYTHON_PREFIX, Config
from blendsearch.runs.config.shares import expand_budget
from blendsearch.runs.default_folder import get_default_folder
from blendsearch.runs.latest import resolve_name
from blendsearch.runs.run import Run, open_run
from blendsearch.scoring import TorchMetric
from blendsearch.task import Task
from blendsearch.training.hooks import TrainingHooks

PARTS = ("train", "val", "test")


def make_config(
    model: nn.Module | str | Section,
    data: Data | UserData | None,
    budget: Budget | Section | BudgetShare,
    options: SearchOptions,
) -> Config:
    """Make the config of a search. Raises ConfigError, naming the field, for a value that is not allowed."""
    tree = {
        "model": _make_model_section(model),
        "data": _make_data_section(data, options.get("splits") or {}),
        "budget": _make_budget_section(budget),
        "seed": options.get("seed", 0),
        **_drop_none(
            method=options.get("method"), allocation=options.get("allocation"), transform=options.get("transform")
        ),
        **_make_sections(options),
    }
    return parse_config(tree, "search")


def _make_sections(options: SearchOptions) -> dict[str, Section]:
    """Make the sections of the config that hold single fields or are options themselves."""
    criteria, task = options.get("criteria"), options.get("task") or {}
    pool = [criteria] if isinstance(criteria, str) else criteria
    fitness = _drop_none(fidelity=options.get("fidelity"), device=options.get("device"))
    return {
        "criteria": dict(pool) if isinstance(pool, Mapping) else _drop_none(pool=pool and list(pool)),
        "fitness": fitness | dict(options.get("fitness") or {}),
        "search": _drop_none(evaluations=options.get("evaluations")) | dict(options.get("evolution") or {}),
        "promote": dict(options.get("promote") or {}),
        "training": dict(options.get("training") or {}),
        "task": {"kind": task} if isinstance(task, str) else dict(task),
        "finals": dict(options.get("finals") or {}),
        "engine": _drop_none(ray=options.get("ray")) | dict(options.get("engine") or {}),
    }


def _drop_none(**fields: ConfigValue) -> dict[str, ConfigValue]:
    return {name: value for name, value in fields.items() if value is not None}


def _make_model_section(model: nn.Module | str | Section) -> Section:
    if isinstance(model, nn.Module):
        return {"factory": f"{PYTHON_PREFIX}:{type(model).__name__}"}
    if isinstance(model, str):
        return {"factory": model}
    if isinstance(model, Mapping):
        return dict(model)
    raise ConfigError(f"model is a {type(model).__name__}: expected a torch.nn.Module, or the name of a factory")


def _make_data_section(data: Data | UserData | None, splits: Section) -> Section:
    if isinstance(data, UserData):
        return {**splits, "dataset": f"{PYTHON_PREFIX}:{_get_data_title(data)}"}
    if isinstance(data, str):
        return {"dataset": data, **splits}
    if isinstance(data, Mapping):
        return {**data, **splits}
    raise ConfigError("no data: pass a Dataset, a DataLoader, a pair of arrays, or the name of a data set")


def _get_data_title(data: UserData) -> str:
    source = data.whole if data.whole is not None else data.train
    source = source.dataset if isinstance(source, DataLoader) else source
    while hasattr(source, "dataset") and not isinstance(source, DataLoader):  # the data set of a Subset
        source = source.dataset
    return "arrays" if isinstance(source, tuple | list) else type(source).__name__


def _make_budget_section(budget: Budget | Section | BudgetShare) -> Section:
    budget = expand_budget(budget)
    if not isinstance(budget, Budget | Mapping):
        raise ConfigError(f"budget is {budget!r:.80}: expected a cost's share, such as blendsearch.macs(0.5)")
    return dict(budget.fields if isinstance(budget, Budget) else budget)


def collect_user_data(data: Data | None, options: InputOptions) -> UserData | None:
    """Collect data that are Python objects; None for data by name. Raises ConfigError for unknown or doubled parts."""
    parts = {name: part for name in PARTS if (part := options.get(name)) is not None}
    if isinstance(data, Mapping) and "dataset" not in data:
        unknown = data.keys() - set(PARTS)
        if unknown:
            raise ConfigError(f"data has {min(unknown)!r}: expected train, val and test; or dataset, for data by name")
        if doubled := data.keys() & parts.keys():
            raise ConfigError(f"{min(doubled)} is passed twice, in data and as {min(doubled)}=")
        return UserData(**data)
    if isinstance(data, str | Mapping) or (data is None and not parts):
        return None
    return UserData(data, **parts)


def collect_user_inputs(options: ReopenOptions) -> UserInputs | None:
    """Collect the objects that a run needs again; None where there are none."""
    data, task, model = collect_user_data(options.get("data"), options), make_task(options), options.get("model")
    trust, hooks = options.get("trust", False), make_hooks(options)
    names = task.get_function_names() | hooks.get_function_names()
    if model is None and data is None and not names and not trust:
        return None
    return UserInputs(model, data, task, trust, hooks)


def make_task(options: InputOptions) -> Task:
    """Make the task of user-defined functions; without any, classification."""
    metric = options.get("metric")
    if metric is not None and not (hasattr(metric, "update") and hasattr(metric, "compute")):
        raise ConfigError(f"metric is a {type(metric).__name__}: expected a torchmetrics.Metric")
    scorer = None if metric is None else TorchMetric(metric)
    return Task(options.get("loss"), options.get("evaluate"), options.get("evaluate_test"), scorer=scorer)


def make_hooks(options: InputOptions) -> TrainingHooks:
    """Make the user-defined training. Raises ConfigError for something that cannot be called."""
    given = {item.name: options.get(item.name) for item in fields(TrainingHooks)}
    for name, function in given.items():
        if function is not None and not callable(function):
            raise ConfigError(f"{name} is a {type(function).__name__}: expected a function")
    return TrainingHooks(**given)  # type: ignore[arg-type]


def format_overrides(changes: Section) -> list[str]:
    """Format changes of a config as ``section.field=value``."""
    import yaml

    def format_value(value: ConfigValue) -> str:
        return str(yaml.safe_dump(value, default_flow_style=True)).replace("\n...\n", "").strip()

    return [f"{field}={format_value(value)}" for field, value in changes.items()]


def find_run(run: str, runs: str | Path | None) -> Run:
    """Open a run by its id in the folder `runs`, or by the path of its directory; ``latest`` is the last one."""
    path = Path(run)
    if len(path.parts) > 1:
        return open_run(path.parent, path.name)
    folder = get_default_folder() if runs is None else Path(runs)
    return open_run(folder, resolve_name(folder, run))
