"""The base of all records of results."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


def omit(unless: str = "") -> Any:
    """A field, None by default, that JSON leaves out where it, or the field named `unless`, is None."""
    return field(default=None, metadata={"unless": unless})


@dataclass(frozen=True, kw_only=True)
class Record:
    """A frozen dataclass whose fields are the keys of its JSON object, in order."""

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        found = {}
        for item in fields(self):
            unless = item.metadata.get("unless")
            if unless is not None and getattr(self, unless or item.name) is None:
                continue
            found[item.name] = _to_json(getattr(self, item.name))
        return found


def _to_json(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_to_json(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value
