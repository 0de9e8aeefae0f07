"""Configs that are accepted from a network: names that are registered here, and paths below one folder.

The check imports, looks up and opens nothing. The search itself looks names up in its registries, and ends with one
line where a name is unknown.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blendsearch.data.source_names import BUILT_IN_DATA, HUGGING_FACE
from blendsearch.errors import ConfigError
from blendsearch.runs.config.loading import apply_overrides, parse_config
from blendsearch.runs.config.schema import Config
from blendsearch.runs.parsing import ParsingError
from blendsearch.runs.yaml_parsing import parse_yaml

MAX_CONFIG_SIZE = 64_000
MAX_DEPTH = 12
"""Nested sections; a config has three."""

MAX_ARGUMENT = 1_000_000
"""The largest number among the arguments of a factory: widths, depths, numbers of classes."""

COMMAND_REFUSAL = (
    "budget.measured.command is not taken from a network: a command that measures latency works from the command line"
)

FACTORY_PATTERN = re.compile(r"(torchvision:)?[A-Za-z0-9_]{1,80}")
NAME_PATTERN = re.compile(r"[A-Za-z0-9_.-]{1,80}")
RESUME_PATTERN = re.compile(
    r"(search\.evaluations|promote\.(share|fidelity|images)|finals\.(picks|seeds|distillation|tuning\.[a-z_]+)|"
    r"ladder\.(cost|finalists)|"
    r"engine\.(workers|threads|timeout|final_timeout|retries|patience)) *=.*"
)
"""Overrides for `resume`; none selects another machine."""

FORK_PATTERN = re.compile(
    r"((seed|allocation|(search|budget|fitness|promote|finals|ladder)\.[a-z_.]+|"
    r"engine\.(workers|threads|timeout|final_timeout|retries|patience)) *=.*)|engine\.ray *= *(off|local)"
)
"""Overrides for `fork`; none selects another machine."""


def parse_remote_config(text: str, overrides: Sequence[str], data: Path | None) -> Config:
    """Parse the config in YAML `text` with `section.field=value` overrides, its paths made absolute, below `data`.

    Raises ConfigError for an invalid config, and for what a config from a network may not have: user-defined functions
    and modules, other machines, downloads, and paths that are not below `data` (None: any).
    """
    tree = parse_remote_yaml(text)
    for override in overrides:
        parse_remote_yaml(override.partition("=")[2])
    tree = apply_overrides(tree or {}, overrides) if isinstance(tree, dict | None) else tree
    if not isinstance(tree, dict):
        raise ConfigError("the config is not YAML with sections such as model: and data:")
    _check_spelling(tree)
    config = parse_config(tree, "config")
    _check_names(config)
    return _resolve_paths(config, data)


def parse_remote_yaml(text: str) -> Any:
    """Parse YAML `text` that is neither large nor deep, and has no aliases."""
    if len(text) > MAX_CONFIG_SIZE:
        raise ConfigError(f"the config is too large: at most {MAX_CONFIG_SIZE:,} characters are taken")
    try:
        return parse_yaml(text, max_depth=MAX_DEPTH, aliases=False)
    except ParsingError as error:
        raise ConfigError(f"the config is not YAML that is taken from a network: {error}") from error


def check_resume_overrides(overrides: Sequence[str]) -> None:
    """Raise ConfigError for an override that a resumed run does not take from a network."""
    _check_overrides(overrides, RESUME_PATTERN, "search.evaluations=, promote.FIELD=, finals.FIELD=, ladder.cost=")


def check_fork_overrides(overrides: Sequence[str]) -> None:
    """Raise ConfigError for an override that a fork does not take from a network."""
    _check_overrides(
        overrides, FORK_PATTERN, "a field of search, budget, fitness, promote, finals or ladder, seed=, allocation="
    )


def _check_overrides(overrides: Sequence[str], allowed: re.Pattern[str], expected: str) -> None:
    for override in overrides:
        if not allowed.fullmatch(override):
            raise ConfigError(
                f"--set {override[:80]!r} is not taken from a network: expected {expected}, or engine.FIELD= that "
                "selects no machine"
            )
        place, _, text = override.partition("=")
        value = parse_remote_yaml(text)
        if place.strip().endswith(".command") or (place.startswith("budget.") and _has_key(value, "command")):
            raise ConfigError(COMMAND_REFUSAL)


def _has_key(value: Any, key: str) -> bool:
    """Return True where `key` is a key of a mapping in `value`, at any depth."""
    if isinstance(value, dict):
        return key in value or any(_has_key(item, key) for item in value.values())
    return isinstance(value, list) and any(_has_key(item, key) for item in value)


def _check_spelling(tree: dict[Any, Any]) -> None:
    """Refuse ``~`` and ``$VARIABLES`` before parsing expands them, as messages would disclose them."""
    model, data = tree.get("model"), tree.get("data")
    for place, section, fields in (("model", model, ("weights",)), ("data", data, ("root", "train", "test", "val"))):
        for field in fields:
            text = section.get(field) if isinstance(section, dict) else None
            if isinstance(text, str) and ("$" in text or text.startswith("~") or "\0" in text):
                raise ConfigError(f"{place}.{field}: neither ~ nor $ is taken from a network, write the path out")


def _check_names(config: Config) -> None:
    if not FACTORY_PATTERN.fullmatch(config.model.factory):
        raise ConfigError(
            f"model.factory {config.model.factory[:80]!r} is not taken from a network: expected a network of the zoo, "
            "or torchvision:NAME; user-defined functions work from the command line"
        )
    if config.model.brings_weights:
        raise ConfigError(
            "model.weights factory is not taken from a network, as it downloads weights: put a file of them below the "
            "server's --data"
        )
    for name, value in config.model.arguments.items():
        if name.startswith(("weights", "pretrained")) and value:
            raise ConfigError(
                f"model.arguments.{name[:80]} is not taken from a network, as it downloads weights: put a file "
                "of them below the server's --data, and name it in model.weights"
            )
        if _find_maximum(value) > MAX_ARGUMENT:
            raise ConfigError(f"model.arguments.{name[:80]} is too large: at most {MAX_ARGUMENT:,} is taken")
    if config.criteria.modules:
        raise ConfigError(
            "criteria.modules is not taken from a network: installed packages can offer criteria by the entry point "
            "group blendsearch.criteria"
        )
    if functions := config.training.get_function_names():
        raise ConfigError(
            f"training.{next(iter(functions))} is not taken from a network: user-defined functions work from the "
            "command line"
        )
    if functions := config.task.get_function_names():
        raise ConfigError(
            f"task.{next(iter(functions))} is not taken from a network: user-defined functions work from the command "
            "line"
        )
    if config.budget.measured.command is not None:
        raise ConfigError(COMMAND_REFUSAL)
    if ":" in config.data.transforms:
        raise ConfigError(
            "data.transforms MODULE:FUNCTION is not taken from a network: expected the name of a preset; user-defined "
            "functions work from the command line"
        )
    if config.engine.ray not in ("off", "local"):
        raise ConfigError("engine.ray is not taken from a network: expected off or local")
    if config.data.download:
        raise ConfigError("data.download is not taken from a network: put the data below the server's --data")
    if config.data.dataset == HUGGING_FACE:
        raise ConfigError(
            "data.dataset huggingface is not taken from a network: put the data below the server's --data"
        )
    names = [config.data.dataset, config.fitness.device.replace(":", ""), *config.criteria.pool]
    for name in (*names, *config.criteria.augment, *config.data.augment, config.data.transforms):
        if not NAME_PATTERN.fullmatch(name):
            raise ConfigError(f"{name[:80]!r} is no name of a data set, device, criterion, augmentation or transform")


def _find_maximum(value: Any) -> float:
    """Return the largest absolute number in `value`, a scalar or nested lists and mappings; infinity for NaN."""
    if isinstance(value, dict | list | tuple):
        return max(map(_find_maximum, value.values() if isinstance(value, dict) else value), default=0)
    if not isinstance(value, int | float):
        return 0
    return abs(value) if value == value else float("inf")


def _resolve_paths(config: Config, data: Path | None) -> Config:
    paths = {"weights": config.model.weights} | {
        name: getattr(config.data, name) for name in ("root", "train", "test", "val")
    }
    if data is None:
        for name, text in paths.items():
            if text is not None:
                raise ConfigError(f"{name}: {text!r} is a path, and this server has no --data folder for them")
        if config.data.dataset not in BUILT_IN_DATA:
            raise ConfigError("this server has no --data folder: only the built-in digits can be searched with")
        return config
    data = data.resolve()

    def resolve_path(folder: Path, text: str, name: str) -> Path:
        try:
            path = (folder / text).resolve()
        except (OSError, RuntimeError) as error:
            raise ConfigError(f"{name}: {text!r} is no path") from error
        if not path.is_relative_to(data):
            raise ConfigError(f"{name}: {text!r} is not below the server's --data folder, which paths start from")
        return path

    root = resolve_path(data, config.data.root or ".", "data.root")
    changes: dict[str, Any] = {"root": None if config.data.dataset in BUILT_IN_DATA else str(root)}
    for name in ("train", "test", "val"):
        if (text := paths[name]) is not None:
            changes[name] = str(resolve_path(root, text, f"data.{name}"))
    weights = None
    if config.model.weights is not None:
        weights = str(resolve_path(data, config.model.weights, "model.weights"))
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"weights": weights}),
            "data": config.data.model_copy(update=changes),
        }
    )
