"""Groups of keyword arguments of `search`, `resume` and `open`."""

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias, TypedDict

from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from blendsearch.task import EvaluateFunction, Loss
from blendsearch.training.hooks import StepInfo, TrainFunction
from blendsearch.training.schedule import Schedule

DataPart: TypeAlias = Dataset[Any] | DataLoader[Any] | Sequence[Any]
"""A Dataset, a DataLoader, a pair of arrays or tensors, or a sequence of (image, target)."""

Data: TypeAlias = DataPart | Mapping[str, Any] | str
"""One data set to divide, a mapping of train, val and test, or the `data` section of a config."""

ConfigValue: TypeAlias = "bool | int | float | str | Sequence[ConfigValue] | Mapping[str, ConfigValue] | None"
"""A value that YAML can hold."""

Section: TypeAlias = Mapping[str, ConfigValue]
"""Fields of a section of the config, by name."""


class InputOptions(TypedDict, total=False):
    """Data in parts, and the functions of a task other than classification, or of a user-defined training."""

    train: DataPart | None
    val: DataPart | None
    test: DataPart | None
    loss: Loss | None
    evaluate: EvaluateFunction | None
    evaluate_test: EvaluateFunction | None
    metric: Any | None
    train_fn: TrainFunction | None
    optimizer: Callable[[nn.Module, Schedule], Optimizer] | None
    scheduler: Callable[[Optimizer, int], Any] | None
    on_step: Callable[[StepInfo], None] | None
    on_epoch: Callable[[StepInfo], None] | None


class ReopenOptions(InputOptions, total=False):
    """The objects that `search` received, for `resume` and `open`."""

    model: nn.Module | None
    data: Data | None
    trust: bool


class FieldOptions(TypedDict, total=False):
    """Single fields of the config."""

    evaluations: int | None
    fidelity: str | None
    criteria: Sequence[str] | Section | None
    method: str | None
    allocation: str | None
    transform: str | None
    seed: int
    ray: str | None
    device: str | None


class SectionOptions(TypedDict, total=False):
    """Sections of the config, of which `splits` is `data` and `evolution` is `search`."""

    splits: Section | None
    fitness: Section | None
    evolution: Section | None
    promote: Section | None
    training: Section | None
    finals: Section | None
    task: str | Section | None
    engine: Section | None


class SearchOptions(InputOptions, FieldOptions, SectionOptions, total=False):
    """All options of `search`."""


def check_options(function: str, options: Collection[str], known: Collection[str]) -> None:
    """Raise TypeError for an option of `function` that is not `known`, as Python does for named parameters."""
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{hint}")
