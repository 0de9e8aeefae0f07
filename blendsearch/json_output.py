"""The JSON that ``--json`` prints: every object has the version of its schema."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

SCHEMA = 1
"""Version of the JSON output. It grows when a key is renamed, removed or changes its meaning, not when one is added."""


def format_json(value: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, indent: int | None = None) -> str:
    """Format an object, or a list of objects, as JSON; each begins with its event, if it is one, and the schema."""
    marked = add_schema(value) if isinstance(value, Mapping) else [add_schema(item) for item in value]
    return json.dumps(marked, indent=indent)


def add_schema(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return `value` with the key ``schema``."""
    event = {"event": value["event"]} if "event" in value else {}
    return {**event, "schema": SCHEMA, **value}
