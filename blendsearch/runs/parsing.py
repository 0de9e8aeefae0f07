"""JSON from files and networks, parsed within limits of size and depth; `yaml_parsing` does the same for YAML.

Parsers recurse and expand: without limits, a small file exhausts the stack or the memory.
"""

import json
from pathlib import Path
from typing import Any, NoReturn

MAX_JSON_BYTES = 64 * 2**20
MAX_YAML_BYTES = 2**20
MAX_DEPTH = 64
"""Nested lists and mappings."""


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
