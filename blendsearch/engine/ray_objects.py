"""Check of user-defined objects before they are sent to Ray's workers."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from blendsearch.errors import EngineError, format_reason

MAX_DEPTH = 5


def check_sendable(objects: Mapping[str, Any]) -> None:
    """Raise EngineError for the first of `objects`, by name, that cannot be pickled, with the part that prevents it."""
    for name, value in objects.items():
        error = _find_error(value)
        if error is None:
            continue
        place, part = _find_culprit(value, "", 0)
        held = (
            f"it holds {_describe(part)}{place and f' ({place})'}" if part is not value else f"it is {_describe(value)}"
        )
        reason = format_reason(error)
        raise EngineError(
            f"{name} cannot be sent to Ray's workers, as {held}: {reason[:200]}; make that inside the function that "
            "uses it, or search with ray off"
        ) from error


class _Discard(io.RawIOBase):
    """A file that keeps nothing."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return len(data)


def _find_error(value: Any) -> Exception | None:
    from ray import cloudpickle

    try:
        cloudpickle.CloudPickler(_Discard(), protocol=5, buffer_callback=lambda _: None).dump(value)
    except Exception as error:  # objects raise anything when they are pickled
        return error
    return None


def _find_culprit(value: Any, place: str, depth: int) -> tuple[str, Any]:
    """Return the innermost part of `value` that cannot be pickled, and its name."""
    if depth < MAX_DEPTH:
        for name, part in _list_parts(value):
            if part is not value and _find_error(part) is not None:
                return _find_culprit(part, name, depth + 1)
    return place, value


def _list_parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, FunctionType):
        read = value.__code__.co_names
        yield from ((name, value.__globals__[name]) for name in read if name in value.__globals__)
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        yield from ((name, cell.cell_contents) for name, cell in cells if _is_filled(cell))
        yield from (value.__kwdefaults__ or {}).items()
        yield from (("a default", item) for item in value.__defaults__ or ())
    elif isinstance(value, MethodType):
        yield "self", value.__self__
    elif isinstance(value, partial):
        yield from [("func", value.func), *(("an argument", item) for item in value.args), *value.keywords.items()]
    elif isinstance(value, Mapping):
        yield from ((str(name), item) for name, item in value.items())
    elif isinstance(value, list | tuple | set):
        yield from (("an item", item) for item in value)
    else:
        yield from list(getattr(value, "__dict__", {}).items())


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _describe(value: Any) -> str:
    kind = type(value)
    named = (
        kind.__qualname__ if kind.__module__ in ("builtins", "_thread") else f"{kind.__module__}.{kind.__qualname__}"
    )
    return f"a {named}"
