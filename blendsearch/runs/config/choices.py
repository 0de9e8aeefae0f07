"""Config fields whose allowed values are not known before the methods are loaded."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True)
class OneOf:
    """Restricts a text field to the values that `list_values` returns, as ``Annotated[str, OneOf(...)]``.

    `removed` are values of earlier versions: read from old runs, but not offered.
    """

    list_values: Callable[[], tuple[str, ...]]
    removed: tuple[str, ...] = ()

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "enum": list(self.list_values())}

    def check(self, value: str) -> str:
        """Return `value`. Raises ValueError, with a suggestion, where it is not allowed."""
        allowed = self.list_values()
        if value in allowed or value in self.removed:
            return value
        *most, last = (repr(item) for item in allowed)
        words = f"{', '.join(most)} or {last}" if most else last
        near = difflib.get_close_matches(value, allowed, 1)
        raise ValueError(f"Input should be {words}" + (f" (did you mean {near[0]!r}?)" if near else ""))
