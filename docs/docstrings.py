"""Conversion of docstrings for Sphinx: sections with entries ``name: description`` become definition lists."""

import re
from itertools import takewhile
from typing import Any

SECTION = re.compile(r"(Attributes|Parameters|Raises)$")
ENTRY = re.compile(r"(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)*): (?P<words>.+)")


def format_sections(lines: list[str]) -> list[str]:
    """Convert the sections in `lines` of a docstring to definition lists."""
    found: list[str] = []
    rest = list(lines)
    while rest:
        line = rest.pop(0)
        if not (SECTION.match(line) and rest and re.fullmatch("-+", rest[0])):
            found.append(line)
            continue
        rest.pop(0)
        body = list(takewhile(str.strip, rest))
        del rest[: len(body)]
        found += [f"**{line}**", "", *(_format_entries(body) if ENTRY.match(body[0]) else body), ""]
    return found


def _format_entries(body: list[str]) -> list[str]:
    found: list[str] = []
    for line in body:
        entry = None if line.startswith(" ") else ENTRY.match(line)
        if entry is None:
            found.append(f"    {line.strip()}")
            continue
        names = ", ".join(f"``{name}``" for name in entry["names"].split(", "))
        found += [names, f"    {entry['words']}"]
    return found


def setup(app: Any) -> dict[str, bool]:
    def read(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
        lines[:] = format_sections(lines)

    app.connect("autodoc-process-docstring", read)
    return {"parallel_read_safe": True}
