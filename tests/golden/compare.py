"""Compare JSON values: exactly, to a tolerance, or by their keys and types alone."""

import json
import os
import re
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

TOLERANCE = float(os.environ.get("GOLDEN_TOLERANCE", "0.005"))
"""Largest difference of computed losses and accuracies; GOLDEN_TOLERANCE=0 asks for equal numbers."""

READ = frozenset(
    {"quiet", "provenance", "text", "verdict", "how", "reason", "sentences", "formula", "source", "messages", "said"}
)
"""Keys that are masked in output read from a run: its age, its provenance, and messages, which may be reworded."""
COMPUTED = READ | {
    *("seconds", "wall", "at", "started", "host", "node", "process"),
    *("splits", "where", "again", "latency", "dense_ms", "pruned_ms", "bytes"),
}
"""Keys that are masked in output computed by the test: times, hosts, and texts of the run that it makes."""


ADDED = frozenset(
    {
        *(".schema", ".answer", ".tags", ".archived", ".changed", ".child.started"),
        *(".metric", ".best_metric", ".importance", "/importance", ".fitness.temperature", ".measured.max_margin"),
        *(
            ".measured.runtime",
            ".measured.command",
            ".measured.timeout",
            ".runtime_latencies",
            ".latency.onnxruntime",
            ".images.unused",
            ".fitness.capacity",
            ".training.graphs",
        ),
    }
)
"""Ends of the places of keys that later versions added: programs that read the output ignore unknown keys."""

FILLED = (".latencies.rows",)
"""Ends of the places of lists that were empty in most runs of earlier versions."""


def mask(value: Any, keys: Collection[str]) -> Any:
    """Replace the values of `keys` by their shapes."""
    if isinstance(value, dict):
        return {key: describe_shape(item) if key in keys else mask(item, keys) for key, item in value.items()}
    return [mask(item, keys) for item in value] if isinstance(value, list) else value


def find_differences(found: Any, expected: Any, tolerance: float = 0.0, place: str = "") -> Iterator[str]:
    """Yield one line per place where two values differ."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in [*expected, *(key for key in found if key not in expected)]:
            if key not in expected and _is_added(f"{place}.{key}", found[key]):
                continue
            if key not in found or key not in expected:
                yield f"{place}.{key} is {'missing' if key in expected else 'new'}"
            else:
                yield from find_differences(found[key], expected[key], tolerance, f"{place}.{key}")
    elif isinstance(found, list) and isinstance(expected, list):
        if not expected and place.endswith(FILLED):
            return
        if len(found) != len(expected):
            yield f"{place} has {len(found)} items, expected {len(expected)}"
        for number, (one, other) in enumerate(zip(found, expected, strict=False)):
            yield from find_differences(one, other, tolerance, f"{place}[{number}]")
    elif type(found) is not type(expected) or not _is_close(found, expected, tolerance):
        yield f"{place} is {found!r:.200}, expected {expected!r:.200}"


def _is_added(place: str, value: Any) -> bool:
    """Return True for a key that later versions added: also the event of a result, or its shape."""
    return place.endswith(tuple(ADDED)) or (place.endswith(".event") and value in ("result", "text"))


def _is_close(found: Any, expected: Any, tolerance: float) -> bool:
    if isinstance(found, float):
        return bool(abs(found - expected) <= tolerance * max(1.0, abs(expected)))
    return bool(found == expected)


def describe_shape(value: Any) -> Any:
    """Return the keys and types of a JSON value; of a list, the distinct shapes of its items."""
    if isinstance(value, dict):
        return {key: describe_shape(item) for key, item in value.items()}
    if isinstance(value, list):
        known = {json.dumps(describe_shape(item), sort_keys=True) for item in value}
        return [json.loads(item) for item in sorted(known)]
    if isinstance(value, bool) or value is None:
        return type(value).__name__
    return "text" if isinstance(value, str) else "number"


def describe_stream(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the order of events without repetitions, and the shapes of each kind; without warnings."""
    named = [(line.get("event", "result"), line) for line in lines if line.get("event") != "warning"]
    kinds = [kind for kind, _ in named]
    order = [kind for before, kind in zip(["", *kinds], kinds, strict=False) if kind != before]
    shapes = {kind: describe_shape([line for other, line in named if other == kind]) for kind in sorted(set(kinds))}
    return {"order": order, "shapes": shapes}


def describe_files(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return the shapes of a described folder's files, grouping names that differ in a number or a digest."""
    grouped: dict[str, list[Any]] = {}
    for name, content in described.items():
        grouped.setdefault(re.sub(r"\d{5}|[0-9a-f]{16}", "*", name), []).append(content)
    return {name: describe_shape(contents) for name, contents in grouped.items()}


def describe_folder(folder: Path) -> dict[str, Any]:
    """Map each file below `folder` to its content as JSON, or to the names, types and shapes of its tensors.

    The list of changes in ``run.json`` is omitted, since only some resumed runs have one.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    kept = [path for path in paths if path.name != "lock" and not path.name.endswith(("-wal", "-shm"))]
    return {path.relative_to(folder).as_posix(): _describe_file(path) for path in kept}


def _describe_file(path: Path) -> Any:
    if path.suffix == ".sqlite":
        return describe_database(path)
    if path.suffix == ".safetensors":
        return _describe_tensors(path)
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.suffix in (".json", ".yaml"):
        return _parse_content(yaml.safe_load(path.read_text(encoding="utf-8")))
    return "text"


def _parse_content(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a JSON file; parse the state of a checkpoint, which is stored as text."""
    if content.keys() == {"sha256", "state"} and isinstance(content["state"], str):
        return {"sha256": "text", "state": json.loads(content["state"])}
    return {key: item for key, item in content.items() if key != "changes"}


def _describe_tensors(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {
        name: {"dtype": item["dtype"], "shape": item["shape"]} if "dtype" in item else item
        for name, item in sorted(header.items())
    }


def describe_database(path: Path) -> dict[str, Any]:
    """Map each table to its columns (name, type, required, place in the key) and its rows."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
        return {name: _describe_table(connection, name) for (name,) in tables}
    finally:
        connection.close()


def _describe_table(connection: sqlite3.Connection, name: str) -> dict[str, Any]:
    columns = [[row[1], row[2], row[3], row[5]] for row in connection.execute(f"PRAGMA table_info({name})")]
    names = [column[0] for column in columns]
    rows = connection.execute(f"SELECT * FROM {name} ORDER BY rowid").fetchall()
    return {"columns": columns, "rows": [dict(zip(names, map(_parse_value, row), strict=True)) for row in rows]}


def _parse_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return json.loads(value) if isinstance(value, str) and value.startswith("{") else value


def describe_api(schema: Mapping[str, Any]) -> Any:
    """Return the paths of an OpenAPI document, without titles and descriptions."""
    prose = {"title", "description", "summary", "operationId"}

    def bare(value: Any, *, names: bool = False) -> Any:
        if isinstance(value, dict):
            kept = value if names else {key: item for key, item in value.items() if key not in prose}
            return {key: bare(item, names=key == "properties") for key, item in kept.items()}
        return [bare(item) for item in value] if isinstance(value, list) else value

    return bare(_inline(schema["paths"], schema["components"]["schemas"]))


def _inline(value: Any, schemas: Mapping[str, Any]) -> Any:
    """Replace references by the schemas that they name: the names are not part of the interface."""
    if isinstance(value, dict):
        if "$ref" in value:
            return _inline(schemas[value["$ref"].rpartition("/")[2]], schemas)
        return {key: _inline(item, schemas) for key, item in value.items()}
    return [_inline(item, schemas) for item in value] if isinstance(value, list) else value
