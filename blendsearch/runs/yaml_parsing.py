"""YAML parsed within limits of size, depth and aliases; a module of its own, as reading a run needs no YAML."""

from collections.abc import Iterator
from typing import Any

import yaml

from blendsearch.runs.parsing import MAX_DEPTH, ParsingError

MAX_NODES = 100_000
"""Values in a YAML text, each counted as often as aliases repeat it."""


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
