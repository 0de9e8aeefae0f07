"""Sources of a search's network and data: names in its config, or Python objects."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.parameter import is_lazy

from blendsearch.data.source_names import is_source
from blendsearch.data.sources import UserData, load_source
from blendsearch.data.splits import DataSpec, Splits, load_splits
from blendsearch.data.user_data import load_user_splits
from blendsearch.errors import ConfigError, ModelError, RunError
from blendsearch.events import Reporter, Warned, ignore_event
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
from blendsearch.zoo.factory import LIBRARIES, PRETRAINED, build_model
from blendsearch.zoo.network_copy import copy_network, unwrap
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

    def list_sent(self) -> dict[str, Any]:
        """Return, by name, the objects that every worker receives as they are."""
        return {
            **({} if self.model is None else {"model": copy_network(self.model).module}),
            **self.task.list_functions(),
            **self.hooks.list_functions(),
        }


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
    elif is_source(config.data.dataset):
        splits = load_user_splits(load_source(spec), inputs.task, spec, seed)
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
    shape: tuple[int, int, int] | None = None,
    report: Reporter = ignore_event,
    folded: Sequence[str] = (),
) -> nn.Module:
    """Build the dense network on the CPU, with the `dense` weights or those of the file that the config names.

    A copy of a user's network is run on one input of `shape`, and hooks that it does not run are reported. `folded` are
    layers that were replaced by plain ones (`structure.folding`) before the `dense` weights were stored.
    """
    if inputs.model is not None:
        model = _copy_user_network(inputs.model, shape, report)
    else:
        torch.manual_seed(config.seed)  # factories draw their first weights from torch's global stream
        brings_weights = config.model.brings_weights and dense is None  # a run has them: nothing is downloaded again
        model = build_model(*_get_factory(config, dense is not None), brings_weights=brings_weights)
        _check(model)
    if dense is not None:
        try:
            make_plain_layers(model, folded)
            model.load_state_dict({name: torch.from_numpy(array) for name, array in dense.items()}, strict=False)
        except (RuntimeError, AttributeError, TypeError) as error:
            raise ModelError(
                f"this {type(model).__name__} is not the network of the run, whose weights are in dense.safetensors: "
                f"{str(error).splitlines()[-1].strip()}"
            ) from error
    elif config.model.weights is not None and not config.model.brings_weights:
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
    if config.fitness.capacity:
        raise ConfigError("fitness.capacity is for classifiers, and this search has a loss of its own: leave it out")
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


def _get_factory(config: Config, has_weights: bool) -> tuple[str, Mapping[str, Any]]:
    """Return the factory and its arguments; for libraries, without those that load weights where a run has them."""
    if is_in_python(config):
        raise ConfigError(
            f"model.factory {config.model.factory} stands for a network in Python: call blendsearch.search(model, data)"
        )
    arguments = config.model.arguments
    if has_weights and config.model.factory.partition(":")[0] in LIBRARIES:
        arguments = {name: value for name, value in arguments.items() if name not in PRETRAINED}
    return config.model.factory, arguments


def _check_lists(model: nn.Module) -> None:
    """Raise ModelError for layers in a list or dictionary of Python, which a network does not know as its own."""
    known = {id(parameter) for parameter in model.parameters()}
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
            layers = [item for item in items if isinstance(item, nn.Module)] if not attribute.startswith("_") else []
            if any(id(parameter) not in known for layer in layers for parameter in layer.parameters()):
                kind = "torch.nn.ModuleDict" if isinstance(value, dict) else "torch.nn.ModuleList"
                raise ModelError(
                    f"{name or type(model).__name__} holds layers in a {type(value).__name__} ({attribute}), so that "
                    f"they are not part of the network: use {kind}"
                )


def _check_one_input(model: nn.Module) -> None:
    """Raise ModelError for a network whose forward pass takes several inputs."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # a callable without a signature
        return
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [item.name for item in parameters if item.default is item.empty and item.kind not in kinds]
    if len(required) > 1:
        raise ModelError(
            f"{type(model).__name__} takes {len(required)} inputs ({', '.join(required)}), and networks of one input "
            "are searched: give a module whose forward() takes the images alone, and the rest a default"
        )


def _check(model: nn.Module) -> None:
    """Raise ModelError for several inputs, for parameters that are lazy, not float32 or not finite, and for scripted
    networks.
    """
    called = type(model).__name__
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            part = f"{called}.{name} is a scripted part" if name else f"{called} is a scripted network"
            raise ModelError(f"{part}, whose layers cannot be cut: give the one it was made from")
    _check_lists(model)
    _check_one_input(model)
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


def _copy_user_network(model: nn.Module, shape: tuple[int, int, int] | None, report: Reporter) -> nn.Module:
    _check(unwrap(model))
    copied = copy_network(model, shape)
    if copied.hooked:
        report(Warned(text=f"the search does not run the hooks of {', '.join(copied.hooked[:3])}"))
    return copied.module
