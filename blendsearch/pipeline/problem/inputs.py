"""Sources of a search's network and data: names in its config, or Python objects."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.parameter import is_lazy

from blendsearch.data.splits import DataSpec, Splits, load_splits
from blendsearch.data.user_data import UserData, load_user_splits
from blendsearch.errors import ConfigError, ModelError, RunError
from blendsearch.runs.config.checks import find_stage_conflict
from blendsearch.runs.config.method_registry import get_method, list_methods
from blendsearch.runs.config.schema import PYTHON_PREFIX, Config
from blendsearch.runs.run import Run
from blendsearch.runs.trust import check_trusted
from blendsearch.structure.folding import make_plain_layers
from blendsearch.structure.preconditions import check_structure
from blendsearch.task import CLASSIFICATION, Task
from blendsearch.training.hooks import NO_HOOKS, TrainingHooks
from blendsearch.user_code import import_function
from blendsearch.zoo.factory import build_model
from blendsearch.zoo.weights import find_bad_values, load_weights


@dataclass(frozen=True, eq=False)
class UserInputs:
    """Python objects of the user that replace names in the config. The network is copied, never changed.

    `trust`: import user-defined code that a run directory names, whoever made it. `hooks`: user-defined training.
    """

    model: nn.Module | None = None
    data: UserData | None = None
    task: Task = CLASSIFICATION
    trust: bool = False
    hooks: TrainingHooks = NO_HOOKS


NO_USER_INPUTS = UserInputs()
"""No Python objects: the config names everything."""


def build_splits(config: Config, inputs: UserInputs = NO_USER_INPUTS) -> Splits:
    """Build the three splits, drawn by `data.split_seed`, or by the run's seed where there is none."""
    seed = config.seed if config.data.split_seed is None else config.data.split_seed
    spec = DataSpec(**config.data.model_dump(exclude={"split_seed"}))
    if inputs.data is not None:
        splits = load_user_splits(inputs.data, inputs.task, spec, seed)
    elif _has_python_data(config):
        raise ConfigError(
            f"data.dataset {config.data.dataset} stands for data in Python: call blendsearch.search(model, data)"
        )
    else:
        splits = load_splits(spec, seed)
    if config.promote.share and config.promote.images == "unused" and splits.unused is None:
        raise ConfigError(
            f"promote.images unused: data.val_limit {config.data.val_limit} leaves none of the {len(splits.val)} "
            "validation images out; expected less"
        )
    return splits


def build_dense_network(
    config: Config,
    dense: Mapping[str, NDArray[Any]] | None = None,
    inputs: UserInputs = NO_USER_INPUTS,
    folded: Sequence[str] = (),
) -> nn.Module:
    """Build the dense network on the CPU, with the `dense` weights or those of the file that the config names.

    `folded` are layers that were replaced by plain ones (`structure.folding`) before the `dense` weights were stored.
    """
    if inputs.model is not None:
        model = _copy_network(inputs.model)
    else:
        torch.manual_seed(config.seed)  # factories draw their first weights from torch's global stream
        model = build_model(*_get_factory(config))
        _check(model)
    if dense is not None:
        try:
            make_plain_layers(model, folded)
            model.load_state_dict({name: torch.from_numpy(array) for name, array in dense.items()}, strict=False)
        except (RuntimeError, AttributeError, TypeError) as error:
            raise ModelError(
                f"this {type(model).__name__} is not the network of the run: {str(error).splitlines()[-1].strip()}"
            ) from error
    elif config.model.weights is not None:
        load_weights(model, Path(config.model.weights))
    return model


def check_user_inputs(run: Run, inputs: UserInputs) -> None:
    """Raise RunError where `run` needs Python objects that `inputs` does not contain, or trust that nobody gave."""
    check_trusted(run, inputs.trust)
    missing = []
    if is_in_python(run.config) and inputs.model is None:
        missing.append("model=")
    if _has_python_data(run.config) and inputs.data is None:
        missing.append("data=")
    asked = run.structure.get("task", {})
    given = inputs.task.get_function_names()
    missing += [f"{name}={called}" for name, called in asked.items() if given.get(name) is None]
    hooks, given_hooks = run.structure.get("hooks", {}), inputs.hooks.get_function_names()
    missing += [f"{name}={called}" for name, called in hooks.items() if given_hooks.get(name) is None]
    if missing:
        raise RunError(
            f"run {run.name!r} was searched from Python, with its network and data: resume it there with "
            f"blendsearch.resume({run.name!r}, {', '.join(missing)}), or blendsearch.open(...) of the same"
        )
    surplus = (given.keys() - asked.keys()) | (given_hooks.keys() - hooks.keys())
    if surplus:
        raise RunError(f"run {run.name!r} was searched without {min(surplus)}=: leave it out, or search anew")


def check_task(config: Config, task: Task) -> None:
    """Raise ConfigError for settings that a user-defined loss or `evaluate=` does not support."""
    if not task.get_function_names():
        return
    if config.fitness.against == "dense":
        raise ConfigError("fitness.against dense compares logits, and this search has a loss of its own: leave it out")
    weights = {"finals": config.finals.distillation, "fitness.tuning": config.fitness.tuning.distillation}
    for place, weight in weights.items():
        if weight:
            raise ConfigError(
                f"{place}.distillation compares logits, and this search has a loss of its own: leave it out"
            )
    if task.evaluate is not None and config.promote.share and config.promote.images == "unused":
        raise ConfigError("promote.images unused: evaluate= sees no validation images to leave out; leave it out")
    if config.finals.count_picks() and not task.is_testable:
        raise ConfigError("finals.picks are tested at once: give evaluate_test= beside evaluate=, or leave them out")


def check_trainable(config: Config, task: Task, hooks: TrainingHooks = NO_HOOKS) -> None:
    """Raise ConfigError where the config asks for fine-tuning and there is no loss."""
    named = {config.allocation, config.method, *config.search.seeds}
    trains = any(spec.name in named and spec.traits.trains_itself for spec in list_methods())
    promoted = config.promote.share and config.promote.fidelity == "tuned"
    tuned = config.fitness.fidelity == "tuned" or promoted or config.finals.count_picks()
    if not task.is_trainable and ((tuned and hooks.train_fn is None) or trains):
        raise ConfigError(
            "networks cannot be fine-tuned: there is no loss for these targets; give loss=, from outputs and targets "
            "to the mean loss of a batch, or search with fidelity recalibrated and no finals"
        )
    if not task.is_trainable and config.training.elastic.epochs:
        raise ConfigError("training.elastic needs a loss: there is none for these targets; give loss=, or leave it out")


def load_hooks(config: Config, inputs: UserInputs) -> TrainingHooks:
    """Return the user-defined training: Python objects first, then functions that the config names.

    Raises ConfigError for a name that cannot be imported, and for functions that exclude finals in stages.
    """
    names = config.training.get_function_names()
    named = {role: import_function(name, f"training.{role}") for role, name in names.items()}
    given = {item.name: getattr(inputs.hooks, item.name) for item in fields(TrainingHooks)}
    hooks = TrainingHooks(**(named | {role: function for role, function in given.items() if function is not None}))
    conflict = find_stage_conflict(config, hooks.get_function_names())
    if conflict is not None:
        raise ConfigError(conflict)
    return hooks


def resolve_finals(config: Config, task: Task, hooks: TrainingHooks) -> Config:
    """Replace an automatic number of finals: one where networks can be trained and tested, else none."""
    if config.finals.picks != "auto":
        return config
    trains_itself = get_method(config.method).traits.trains_itself
    possible = task.is_testable and (task.is_trainable or hooks.train_fn is not None) and not trains_itself
    finals = config.finals.model_copy(update={"picks": int(possible)})
    return config.model_copy(update={"finals": finals})


def is_in_python(config: Config) -> bool:
    """Return True where the network of `config` is a Python object of the user."""
    return config.model.factory.startswith(f"{PYTHON_PREFIX}:")


def _has_python_data(config: Config) -> bool:
    return config.data.dataset.startswith(f"{PYTHON_PREFIX}:")


def _get_factory(config: Config) -> tuple[str, Mapping[str, Any]]:
    if is_in_python(config):
        raise ConfigError(
            f"model.factory {config.model.factory} stands for a network in Python: call blendsearch.search(model, data)"
        )
    return config.model.factory, config.model.arguments


def unwrap_compiled(model: nn.Module) -> nn.Module:
    """Return the module inside a ``torch.compile`` wrapper, or `model` itself: compiled code cannot be traced."""
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, nn.Module) else model


def _check(model: nn.Module) -> None:
    """Raise ModelError for parameters that are lazy, not float32 or not finite, and for scripted networks."""
    called = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(f"{called} is a scripted network, whose layers cannot be cut: give the one it was made from")
    check_structure(model)
    for name, parameter in model.named_parameters():
        if is_lazy(parameter) or parameter.device.type == "meta":
            raise ModelError(
                f"{called} has no values in {name} yet: a lazy layer gets them in its first forward pass, one on the "
                "meta device from its weights; give it then"
            )
        if not parameter.dtype.is_floating_point:
            continue
        if parameter.dtype != torch.float32:
            raise ModelError(f"{called} has {parameter.dtype} parameters: give it in float32 (model.float())")
        if not torch.isfinite(parameter.detach()).all():
            raise ModelError(f"{called} holds NaN or infinity in {name}: take its weights from before that")
    for name, buffer in model.named_buffers():
        if bad := find_bad_values(name, buffer, is_parameter=False):
            raise ModelError(f"{called} holds {bad} in {name}: take its weights from before that")


def _copy_network(model: nn.Module) -> nn.Module:
    model = unwrap_compiled(model)
    _check(model)
    try:
        copied = copy.deepcopy(model).cpu()
    except Exception as error:  # a user-defined network may contain anything
        raise ModelError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: {str(error).splitlines()[0]}): a search "
            "works on a copy; give a network without such attributes"
        ) from error
    for parameter in copied.parameters():
        if parameter.dtype.is_floating_point:
            parameter.requires_grad_(True)  # layers frozen for training can be cut, and fine-tuned, like any other
    return copied.eval()
