"""Decoding of stored values: JSON and rows are compared with the types that describe them before anything uses them."""

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from types import NoneType, UnionType
from typing import Any, NamedTuple, NotRequired, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

from blendsearch.runs.parsing import parse_json
from blendsearch.runs.records import Evaluation

MAX_INTEGER = 2**128
"""No stored integer is larger: the state of a random generator has 128 bits."""

MAX_NUMBER = 1e300
"""No stored real number is larger: means and differences of several stay finite."""

MAX_TEXT = 40
"""Length in characters of a wrong value in a message."""

SHARES = ("error", "least_error", "test_error")
"""Columns with values in [0, 1]."""

UNSIGNED = ("seconds", "wall", "at", "ratio", "cost", *SHARES)
"""Columns of real numbers that are not negative."""

State = TypeVar("State")
Row = TypeVar("Row", bound=NamedTuple)


def check_type(value: Any, kind: Any, place: str = "") -> None:
    """Raise ValueError, with the place of the wrong value, unless the JSON `value` has the annotated type `kind`.

    Numbers must be finite. Keys that a TypedDict does not name are ignored, as those of a newer version.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return
    if is_typeddict(kind):
        _check_fields(value, kind, place)
    elif origin in (Union, UnionType):
        _check_union(value, parts, place)
    elif origin is tuple:
        _check_tuple(value, parts, place)
    elif origin is list or kind is list:
        _check_plain(value, list, place)
        for number, item in enumerate(value if parts else ()):
            check_type(item, parts[0], f"{place}.{number}")
    elif origin in (dict, Mapping):
        _check_plain(value, dict, place)
        for key, item in value.items():
            check_type(item, parts[1], f"{place}.{key}")
    else:
        _check_plain(value, kind, place)


def _check_fields(value: Any, kind: Any, place: str) -> None:
    _check_plain(value, dict, place)
    for name, field_kind in _get_hints(kind).items():
        if name in value:
            own = get_args(field_kind)[0] if get_origin(field_kind) is NotRequired else field_kind
            check_type(value[name], own, f"{place}.{name}")
        elif name in kind.__required_keys__:
            raise ValueError(f"{f'{place}.{name}'.lstrip('.')} is missing")


def _check_union(value: Any, parts: Sequence[Any], place: str) -> None:
    for part in parts:
        try:
            return check_type(value, part, place)
        except ValueError:
            continue
    raise ValueError(_describe_wrong(value, place))


def _check_tuple(value: Any, parts: Sequence[Any], place: str) -> None:
    _check_plain(value, list, place)
    expected = [parts[0]] * len(value) if parts[-1] is Ellipsis else list(parts)
    if len(value) != len(expected):
        raise ValueError(_describe_wrong(value, place))
    for number, (item, part) in enumerate(zip(value, expected, strict=True)):
        check_type(item, part, f"{place}.{number}")


def _check_plain(value: Any, kind: Any, place: str) -> None:
    if kind is float:
        fits = type(value) in (int, float) and abs(value) < MAX_NUMBER
    elif kind is int:
        fits = type(value) is int and abs(value) < MAX_INTEGER
    else:
        fits = isinstance(value, NoneType if kind is None else kind)
    if not fits:
        raise ValueError(_describe_wrong(value, place))


def _describe_wrong(value: Any, place: str) -> str:
    text = repr(value)
    return f"{place.lstrip('.') or 'it'} cannot be {text if len(text) <= MAX_TEXT else f'{text[:MAX_TEXT]} …'}"


@cache
def _get_hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def decode_json(text: str, kind: Any) -> Any:
    """Parse a JSON text of a column and check its type. Raises ValueError where it is damaged."""
    value = parse_json(text, allow_nan=False)
    check_type(value, kind)
    return value


def decode_metrics(text: str) -> dict[str, float]:
    """Parse the metrics of a user-defined evaluation, which may be NaN. Raises ValueError for other values."""
    found = parse_json(text)
    if not isinstance(found, dict) or any(type(value) not in (int, float) for value in found.values()):
        raise ValueError("metrics are no numbers by name")
    return {name: float(value) for name, value in found.items()}


def decode_dataclass(values: Mapping[str, Any], kind: type[State]) -> State:
    """Make the dataclass `kind` from JSON. Raises ValueError where a value is missing, unknown, or of another type."""
    hints = get_type_hints(kind)
    if unknown := values.keys() - hints.keys():
        raise ValueError(f"{min(unknown)} is unknown")
    for name, value in values.items():
        check_type(value, hints[name], name)
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(str(error)) from error


def decode_rows(rows: Sequence[tuple[Any, ...]], kind: type[Row]) -> list[Row]:
    """Make a record of each row.

    Raises ValueError, with the column, where a value has another type, is not finite, or has a wrong sign.
    """
    for (name, hint), column in zip(_get_hints(kind).items(), zip(*rows, strict=True), strict=False):
        allowed = _get_column_types(hint)
        if not set(map(type, column)) <= allowed:
            wrong = next(item for item in column if type(item) not in allowed)
            raise ValueError(_describe_wrong(wrong, name))
        if allowed & {int, float}:
            _check_numbers(name, column, signed=float in allowed and name not in UNSIGNED)
    return [kind(*row) for row in rows]


def refuse_repetition(rows: list[Row], key: Collection[str]) -> list[Row]:
    """Return `rows`. Raises ValueError where two of them have the same values of the columns `key`."""
    if key and len({tuple(getattr(row, name) for name in key) for row in rows}) < len(rows):
        raise ValueError(f"a row with the same {' and '.join(key)} is there twice")
    return rows


def remove_places(rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Remove the first value of each row, its place. Raises ValueError where one is below 1, as no place is."""
    if any(row[0] < 1 for row in rows):
        raise ValueError(f"the place of a row is {min(row[0] for row in rows)}")
    return [row[1:] for row in rows]


def _check_numbers(name: str, column: Iterable[Any], *, signed: bool) -> None:
    known = [item for item in column if item is not None]
    if not known:
        return
    least, most = min(known), max(known)
    if not all(map(math.isfinite, known)) or most >= MAX_NUMBER or (least < 0 and not signed):
        wrong = least if least < 0 and not signed else most
        raise ValueError(_describe_wrong(wrong, name))
    if name in SHARES and most > 1:
        raise ValueError(_describe_wrong(most, name))


@cache
def _get_column_types(hint: Any) -> frozenset[type]:
    parts = get_args(hint) or (hint,)
    return frozenset({bool: int}.get(part, part) for part in parts) | ({int} if float in parts else set())


def check_evaluations(rows: Sequence[Evaluation], channels: int | None) -> None:
    """Raise ValueError unless ids are unique, failures alone lack results, and cuts of `channels` bits fit digests.

    With None, cuts are not compared.
    """
    if len({row.id for row in rows}) < len(rows):
        raise ValueError("an id is there twice")
    for row in rows:
        if not bool(row.failure) == (row.loss is None) == (row.error is None):
            raise ValueError(f"network {row.id} has a failure and results, or neither")
        if channels is not None:
            check_cut(row.cut, row.digest, channels)


def check_cut(cut: bytes, digest: str, channels: int) -> None:
    """Raise ValueError unless `cut` has `channels` packed bits and this digest."""
    if len(cut) != -(-channels // 8):
        raise ValueError(f"the cut of network {digest} has {len(cut)} bytes, expected {-(-channels // 8)}")
    if hashlib.sha256(channels.to_bytes(8, "little") + cut).hexdigest()[: len(digest)] != digest or not digest:
        raise ValueError(f"a cut has not the digest {digest!r} that is stored with it")
