"""JSON and YAML from files and networks, parsed within limits of size, depth and aliases.

Parsers recurse and expand: without limits, a small file exhausts the stack or the memory.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml

MAX_JSON_BYTES = 64 * 2**20
MAX_YAML_BYTES = 2**20
MAX_DEPTH = 64
"""Nested lists and mappings."""

MAX_NODES = 100_000
"""Values in a YAML text, each counted as often as aliases repeat it."""


class ParsingError(ValueError):
    """Text that is malformed or exceeds a limit; the message is one line."""


def read_json(path: Path, *, max_bytes: int = MAX_JSON_BYTES, allow_nan: bool = True) -> Any:
    """Parse the JSON file `path`. Raises OSError, or ParsingError for anything that is not plain JSON."""
    return parse_json(read_text(path, max_bytes), allow_nan=allow_nan)


def read_text(path: Path, max_bytes: int) -> str:
    """Read a regular UTF-8 file of at most `max_bytes`. Raises OSError or ParsingError."""
    if path.exists() and not path.is_dir() and not path.is_file():
        raise ParsingError("not a regular file")  # opening a pipe would wait for a writer
    with open(path, "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ParsingError(f"larger than {max_bytes:,} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ParsingError(f"not UTF-8 at byte {error.start:,}") from error


def parse_json(text: str, *, allow_nan: bool = True) -> Any:
    """Parse JSON `text`. Raises ParsingError when it is malformed, nested too deep, or repeats a key."""
    try:
        return json.loads(text, object_pairs_hook=_make_object, **({} if allow_nan else _FINITE))
    except RecursionError as error:
        raise ParsingError("nested too deep") from error
    except ParsingError:
        raise
    except ValueError as error:  # also a number of thousands of digits
        raise ParsingError(" ".join(str(error).split())) from error


def parse_yaml(text: str, *, max_depth: int = MAX_DEPTH, aliases: bool = True) -> Any:
    """Parse YAML `text` by the safe loader; `aliases` says if ``*name`` is accepted. Raises ParsingError."""
    try:
        _check_size(yaml.parse(text, Loader=yaml.SafeLoader), max_depth, aliases)
        return yaml.safe_load(text)
    except ParsingError:
        raise
    # the loader raises the last four for values that do not fit their tag, such as !!bool maybe
    except (yaml.YAMLError, ValueError, OverflowError, LookupError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ParsingError(
            reason if isinstance(error, yaml.YAMLError | ValueError) else f"no value: {reason}"
        ) from error


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ParsingError(f"the key {twice[:80]!r} appears twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ParsingError(f"{name} is no JSON number")


def _parse_finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), -float("inf")):
        raise ParsingError(f"{text[:80]} exceeds the range of numbers")
    return number


_FINITE: dict[str, Any] = {"parse_constant": _refuse_constant, "parse_float": _parse_finite}


def _check_size(events: Iterator[yaml.Event], max_depth: int, aliases: bool) -> None:
    """Raise ParsingError where `events` describe values that are too deep or too many, or contain themselves."""
    anchored: dict[str, tuple[int, int]] = {}
    """The nodes and the depth of every complete anchored value."""
    begun: list[tuple[str | None, int, int]] = []
    """The anchor of every open collection, and its nodes and depth so far."""
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            begun.append((event.anchor, 1, 1))
            _check_limits(0, len(begun), max_depth)
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, nodes, depth = begun.pop()
        elif isinstance(event, yaml.ScalarEvent):
            anchor, nodes, depth = event.anchor, 1, 0
        elif isinstance(event, yaml.AliasEvent):
            name = str(event.anchor)
            if not aliases:
                raise ParsingError(f"it has an alias, *{name[:80]}: write it out")
            if name not in anchored:
                raise ParsingError(f"the alias *{name[:80]} has no complete value before it")
            anchor, (nodes, depth) = None, anchored[name]
        else:
            continue
        if anchor is not None:
            anchored[anchor] = nodes, depth
        if begun:
            outer, count, below = begun[-1]
            begun[-1] = outer, count + nodes, max(below, depth + 1)
        _check_limits(nodes, len(begun) + depth, max_depth)


def _check_limits(nodes: int, depth: int, max_depth: int) -> None:
    if depth > max_depth:
        raise ParsingError(f"it is nested more than {max_depth} deep")
    if nodes > MAX_NODES:
        raise ParsingError(f"it has more than {MAX_NODES:,} values")
