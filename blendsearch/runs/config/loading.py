"""Load a config from YAML; errors name every field that is wrong."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from blendsearch.errors import ConfigError
from blendsearch.runs.config.checks import check_config
from blendsearch.runs.config.method_registry import apply_method
from blendsearch.runs.config.schema import Config, load_config_class
from blendsearch.runs.config.shares import expand_budget
from blendsearch.runs.parsing import MAX_DEPTH, MAX_YAML_BYTES, ParsingError, read_text

OLD_FIELDS = {"search.optimiser": "search.optimizer"}
"""Fields that had other names in earlier versions."""

ABSENT_SECTIONS: dict[str, dict[str, Any]] = {"ladder": {"rungs": []}}
"""Sections that runs of earlier versions do not have, with the values that mean the same."""

ABSENT_FIELDS: dict[str, dict[str, Any]] = {
    "budget": {"round_to": 1},
    "fitness": {"temperature": "own"},
    "search": {"blocks": False},
}
"""The same for fields of sections that those runs have."""

DIGITS = Path(__file__).with_name("digits.yaml")
"""The built-in example that `load_config` loads without a file."""

EXAMPLES = {"digits": DIGITS, "clutter": DIGITS.with_name("clutter.yaml")}
"""The built-in examples by the names that take the place of a file."""


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Load the YAML file `path` (the digits example without one) and apply `section.field=value` overrides.

    Where there is no such file, a name of `EXAMPLES` is that example. Raises ConfigError, naming the field, for
    anything that is not known or not allowed.
    """
    example = find_example(path)
    source = str(path) if example is None else f"the {example} example"
    path = path if example is None else EXAMPLES[example]
    assert path is not None  # without a file there is an example
    from blendsearch.runs.yaml_parsing import parse_yaml

    try:
        loaded = parse_yaml(read_text(path, MAX_YAML_BYTES))
    except OSError as error:
        raise ConfigError(f"config {path} cannot be read: {error.strerror or error}") from error
    except ParsingError as error:
        raise ConfigError(f"config {path} is not YAML: {error}") from error
    if loaded is not None and not isinstance(loaded, dict):
        raise ConfigError(f"config {path} holds a {type(loaded).__name__}, expected sections such as model: and data:")
    return parse_config(apply_overrides(loaded or {}, overrides), f"{source} and --set" if overrides else source)


def find_example(path: Path | None) -> str | None:
    """Find the name of the built-in example that `path` means: digits for None, None for a file."""
    if path is None:
        return "digits"
    return str(path) if str(path) in EXAMPLES and not path.exists() else None


def apply_overrides(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply `section.field=value` overrides to `tree` in place. Raises ConfigError for another form."""
    for override in overrides:
        _override(tree, override)
    return tree


def parse_config(tree: Any, source: str) -> Config:
    """Parse a tree of dicts, as YAML and JSON give it; `source` names it in messages."""
    _rename_old_fields(tree)
    if isinstance(tree, dict) and "budget" in tree:
        tree = {**tree, "budget": expand_budget(tree["budget"])}
    try:
        config = load_config_class().model_validate(apply_method(tree))
    except ValidationError as error:
        raise ConfigError(f"{source}: {'; '.join(_format_errors(error))}") from error
    try:
        check_config(config)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from error
    return config


def parse_stored_config(tree: Any, source: str) -> Config:
    """Parse the config of a run: what an earlier version did not have is off, whatever its default is now."""
    if isinstance(tree, dict):
        tree = {**tree, **{name: tree.get(name, values) for name, values in ABSENT_SECTIONS.items()}}
        tree |= {
            name: {**ABSENT_FIELDS[name], **tree[name]} for name in ABSENT_FIELDS if isinstance(tree.get(name), dict)
        }
    return parse_config(tree, source)


def _rename_old_fields(tree: Any) -> None:
    """Rename fields of earlier versions in place; a field given under both names stays, and is refused as unknown."""
    for old, new in OLD_FIELDS.items():
        section, name = old.split(".")
        branch = tree.get(section) if isinstance(tree, dict) else None
        if isinstance(branch, dict) and name in branch:
            branch.setdefault(new.split(".")[1], branch[name])
            if branch[new.split(".")[1]] == branch[name]:
                del branch[name]


def dump_config(config: Config) -> str:
    """Return the config as YAML with every default written out."""
    import yaml

    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _override(tree: dict[str, Any], override: str) -> None:
    place, equals, text = override.partition("=")
    fields = place.strip().split(".")
    if not equals or not all(fields) or len(fields) > MAX_DEPTH:
        raise ConfigError(f"--set {override[:200]!r} is not understood: expected section.field=value")
    from blendsearch.runs.yaml_parsing import parse_yaml

    try:
        value = parse_yaml(text)
    except ParsingError as error:
        raise ConfigError(f"--set {override[:200]!r}: the value is not YAML: {error}") from error
    fields = OLD_FIELDS.get(".".join(fields), ".".join(fields)).split(".")
    branch = tree
    if fields[0] == "budget" and len(fields) > 1:
        branch["budget"] = expand_budget(branch.get("budget"))
    for field in fields[:-1]:
        if branch.get(field) is None:
            branch[field] = {}
        branch = branch[field]
        if not isinstance(branch, dict):
            raise ConfigError(f"--set {override!r}: {field} holds no fields")
    branch[fields[-1]] = value


_BRANCHES = ("tuple[", "constrained-", "literal[", "float", "int", "bool")


def _format_errors(error: ValidationError) -> list[str]:
    """Return one clause per field that is wrong."""
    complaints = []
    for item in error.errors(include_url=False):
        in_union = any(str(part).startswith(_BRANCHES) for part in item["loc"])
        if in_union and item["type"] == ("float_type" if isinstance(item["input"], list | tuple) else "tuple_type"):
            continue  # the branch of Span that does not apply
        # pydantic names the branch of a union it tried as if it were a field
        place = ".".join(str(part) for part in item["loc"] if not str(part).startswith(_BRANCHES))
        if item["type"] == "extra_forbidden":
            known = _get_field_names(item["loc"][:-1])
            near = difflib.get_close_matches(str(item["loc"][-1]), known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            complaints.append(f"{place} is not a known field: {hint}")
        else:
            message = item["msg"].removeprefix("Value error, ")
            given = "" if isinstance(item["input"], dict) else f", given {_abbreviate(item['input'])}"
            complaints.append(f"{place}: {message}{given}" if place else message)
    found = [text if len(text) <= 1000 else f"{text[:1000]} ..." for text in dict.fromkeys(complaints)]
    return found if len(found) <= 20 else [*found[:20], f"and {len(found) - 20} more"]


def _abbreviate(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]} ..."


def _get_field_names(location: tuple[int | str, ...]) -> list[str]:
    section: Any = Config
    for part in location:
        annotation = section.model_fields[str(part)].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        section = next(item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel))
    return list(section.model_fields)
