"""Damages to the files of a run directory: raw bytes, JSON values, SQLite rows, arrays, log lines."""

import hashlib
import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from damage import Damage, make_sql_damage, make_writer, open_unchecked
from further_damages import list_entries, list_further_content
from safetensors.numpy import load_file, save_file

from blendsearch.runs.provenance import hash_arrays
from blendsearch.runs.run_facts import compute_owner
from blendsearch.runs.table_layout import write_owner
from blendsearch.runs.tables import AGES

VALUES = (
    *(None, float("nan"), -1, 1e308, 10**30, "x", True, [], [[1]], {}),
    *(0, 0.5, -(2**63), False, "1", "\ud800", "two\nlines \x1b[2J\u202e\x00", "../../x", "x" * 100_000),
)
"""What replaces each value of a JSON file."""
CELLS = (
    *(None, float("inf"), -1, 1e308, 2**62, "x", b"\xff\x00", ""),
    *(0, 0.5, 2**63 - 1, -(2**63), "1", "two\nlines \x1b[2J\u202e\x00", "../../x", "x" * 100_000),
)
"""What replaces each value of an SQLite row."""
INTEGER_KEYS = {"evaluations": "id", "completions": "place", "inherited": "place", "generations": "generation"}
"""Columns that SQLite lets hold nothing but integers, by table."""
REALS = ("seconds", "wall", "at", "ratio", "cost")
"""Columns of real numbers, besides losses and errors."""
NEWEST = max(AGES, key=AGES.__getitem__)
"""The table that runs of the version before do not have."""


def list_damages(run: Path, only: str = "") -> list[Damage]:
    """List the damages to all files of `run`, or to `only` one of them."""
    found = [item for item in list_entries(run) if only in ("", item.file)]
    for path in sorted(path for path in run.rglob("*") if path.is_file() and "sqlite-" not in path.name):
        file = path.relative_to(run).as_posix()
        if only not in ("", file):
            continue
        found += _list_raw(file, path)
        found += list_further_content(run, file, path)
        if path.suffix == ".json":
            found += _list_json(file, json.loads(path.read_text(encoding="utf-8")))
        elif path.suffix == ".sqlite":
            found += _list_sqlite(file, path)
        elif path.suffix == ".safetensors":
            found += _list_arrays(run, file, path)
        elif path.suffix == ".jsonl":
            found += _list_log_lines(file)
    return found


def _list_raw(file: str, path: Path) -> Iterator[Damage]:
    raw, draw = path.read_bytes(), random.Random(file)
    # without this file, a run has stopped before its end, and `resume` completes it
    mark = file == "finished.json"
    yield Damage(file, "missing", lambda run: (run / file).unlink(), plausible=mark)
    yield Damage(file, "a folder", lambda run: _replace_by_folder(run / file))
    yield Damage(file, "a link to nothing", lambda run: _replace_by_link(run / file), plausible=mark)
    yield Damage(file, "a link to itself", lambda run: _replace_by_link(run / file, path.name), plausible=mark)
    yield Damage(file, "a link to a device", lambda run: _replace_by_link(run / file, "/dev/zero"))
    yield Damage(file, "a pipe", lambda run: _replace_by_pipe(run / file))
    yield Damage(file, "a hard link", lambda run: _link_from_outside(run / file), plausible=True)
    yield Damage(file, "65 MB", lambda run: _extend(run / file, 65 * 2**20), plausible=path.suffix == ".jsonl")
    if os.geteuid():
        yield Damage(file, "unreadable", lambda run: (run / file).chmod(0))
    contents = {
        "empty": b"",
        "half": raw[: len(raw) // 2],
        "short by a byte": raw[:-1],
        "random": draw.randbytes(len(raw)),
        "zeros": bytes(len(raw)),
        "longer": raw + b"\x00\xff{",
        **{f"holds {text}": text.encode() for text in ("[]", "{}", "null", "1", '"x"', "NaN", '{"format": 1}')},
        "holds deep brackets": b"[" * 100_000,
        "holds a long number": b"9" * 10_000,
    }
    for name, content in contents.items():
        yield Damage(file, name, make_writer(file, content), plausible=path.suffix in (".jsonl", ".yaml"))
    places = [0, *sorted(draw.sample(range(1, len(raw)), min(12, len(raw) - 1)))]
    for place in places:
        content = bytes([*raw[:place], raw[place] ^ (1 << draw.randrange(8)), *raw[place + 1 :]])
        yield Damage(file, f"byte {place}", make_writer(file, content), plausible=True)


def _replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _replace_by_link(path: Path, target: str = "absent") -> None:
    path.unlink()
    path.symlink_to(target)


def _replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link_from_outside(path: Path) -> None:
    """Give the file another name, in the folder of the runs, which hides it from `read_tree`."""
    runs = next(folder for folder in path.parents if folder.name == "one").parent
    (runs / ".other-name").unlink(missing_ok=True)
    os.link(path, runs / ".other-name")


def _extend(path: Path, size: int) -> None:
    """Make the file this large without taking up space."""
    with open(path, "ab") as file:
        file.truncate(size)


def _list_json(file: str, tree: Any) -> Iterator[Damage]:
    if isinstance(tree, dict) and tree.keys() >= {"sha256", "state"} and isinstance(tree["state"], str):
        for name, change, plausible in change_json(json.loads(tree["state"])):
            yield Damage(file, f"signed, {name}", _make_json_writer(file, change, sign), plausible)
    for number, (name, change, plausible) in enumerate(change_json(tree)):
        if not name.startswith("config.") or not number % 10:  # one validator reads all of the config
            yield Damage(file, name, _make_json_writer(file, change, lambda tree: json.dumps(tree).encode()), plausible)


def _make_json_writer(file: str, change: Callable[[], Any], encode: Callable[[Any], bytes]) -> Callable[[Path], None]:
    def write(run: Path) -> None:
        (run / file).write_bytes(encode(change()))

    return write


def sign(state: Any) -> bytes:
    """Write a checkpoint with a valid digest."""
    body = json.dumps(state, separators=(",", ":"))
    return json.dumps({"sha256": hashlib.sha256(body.encode()).hexdigest(), "state": body}).encode()


def change_json(tree: Any) -> Iterator[tuple[str, Callable[[], Any], bool]]:
    """Yield names, functions that copy `tree` with one key missing or one value replaced, and whether that is valid."""
    for place in _list_places(tree):
        name = ".".join(map(str, place))
        old = _reach(tree, place)
        for value in VALUES:
            if old != value or type(old) is not type(value):
                # an infinite crowding distance is stored as None
                plausible = _is_plausible(1.0 if old is None and place[-1] == "crowding" else old, value)
                yield f"{name} = {_shorten(value)}", partial(_replace, tree, place, value), plausible
        yield f"{name} missing", partial(_remove, tree, place), isinstance(place[-1], int)


def _shorten(value: Any) -> str:
    text = str(value) if str(value).isprintable() else ascii(value)
    return text if len(text) < 60 else f"{text[:5]} … ({len(text)})"


def _replace(tree: Any, place: list[Any], value: Any) -> Any:
    changed = deepcopy(tree)
    _reach(changed, place[:-1])[place[-1]] = deepcopy(value)
    return changed


def _remove(tree: Any, place: list[Any]) -> Any:
    changed = deepcopy(tree)
    del _reach(changed, place[:-1])[place[-1]]
    return changed


def _is_plausible(old: Any, new: Any) -> bool:
    number = isinstance(old, int | float) and not isinstance(old, bool)
    if number and isinstance(new, str):  # a config takes "1" for 1
        return new.isdecimal()
    return (isinstance(old, str) and isinstance(new, str)) or (number and type(new) in (int, float) and new == new)


def _list_places(tree: Any, depth: int = 6) -> Iterator[list[Any]]:
    """Yield the places of a tree's values; of a list, the first and the last."""
    if isinstance(tree, dict):
        keys: list[Any] = list(tree)
    elif isinstance(tree, list):
        keys = sorted({0, len(tree) - 1}) if tree else []
    else:
        return
    for key in keys:
        yield [key]
        if depth:
            yield from ([key, *rest] for rest in _list_places(tree[key], depth - 1))


def _reach(tree: Any, place: list[Any]) -> Any:
    for key in place:
        tree = tree[key]
    return tree


def _list_sqlite(file: str, path: Path) -> Iterator[Damage]:
    with closing(sqlite3.connect(path)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = {table: [row[1] for row in connection.execute(f"PRAGMA table_info({table})")] for table in tables}
        counts = {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}
    for name, content in (("junk", b"junk" * 2000), ("nothing", b"")):
        yield Damage(file, f"a log of {name} beside it", make_writer(f"{file}-wal", content))
    for table in tables:
        yield make_sql_damage(file, f"{table} dropped", f"DROP TABLE {table}", plausible=table == NEWEST)
        for column in columns[table]:
            yield make_sql_damage(file, f"{table}.{column} missing", *_drop_column(table, column, columns[table]))
        if not counts[table]:
            continue
        for name, where in (("all", "1"), ("first", "rowid = (SELECT min(rowid) FROM {0})"),
                            ("last", "rowid = (SELECT max(rowid) FROM {0})")):  # fmt: skip
            statement = f"DELETE FROM {table} WHERE {where.format(table)}"
            yield make_sql_damage(file, f"{table}, {name} rows removed", statement, plausible=True)
        names = ", ".join(columns[table])
        copy = f"CREATE TABLE copy AS SELECT * FROM {table}", f"DROP TABLE {table}"
        yield make_sql_damage(
            file,
            f"{table}, rows doubled",
            *copy,
            f"CREATE TABLE {table} AS SELECT * FROM copy UNION ALL SELECT {names} FROM copy",
        )
        for column in columns[table]:
            for value in (item for item in CELLS if type(item) is int or column != INTEGER_KEYS.get(table)):
                for number in sorted({1, counts[table]}):
                    yield _make_cell_damage(file, table, column, number, value)
        if "genome" in columns[table] or "summary" in columns[table] or "numbers" in columns[table]:
            column = next(name for name in ("genome", "summary", "numbers") if name in columns[table])
            yield from _list_json_cells(file, path, table, column, counts[table])
        if "cut" in columns[table]:
            for change in ("x''", "substr(cut, 2)", "cut || x'ff'", "zeroblob(length(cut))", "zeroblob(10000000)"):
                yield make_sql_damage(file, f"cut = {change}", f"UPDATE {table} SET cut = {change}")
                yield make_sql_damage(
                    file, f"first cut = {change}", f"UPDATE {table} SET cut = {change} WHERE rowid = 1"
                )


def _drop_column(table: str, column: str, columns: list[str]) -> list[str]:
    kept = ", ".join(name for name in columns if name != column)
    return [
        f"CREATE TABLE copy AS SELECT {kept} FROM {table}",
        f"DROP TABLE {table}",
        f"ALTER TABLE copy RENAME TO {table}",
    ]


def _list_json_cells(file: str, path: Path, table: str, column: str, count: int) -> Iterator[Damage]:
    with closing(sqlite3.connect(path)) as connection:
        texts = [text for (text,) in connection.execute(f"SELECT {column} FROM {table} ORDER BY rowid")]
    for text in ("{", "{}", "[]", "null", "NaN", "1", '"x"', "[" * 100_000, "9" * 10_000):
        made = _make_cell_damage(file, table, column, count, text)
        # networks of other methods than the blend have no genome
        yield Damage(file, made.name, made.apply, made.plausible or (column, text) == ("genome", "{}"))
    for name, change, plausible in change_json(json.loads(texts[-1])):
        yield Damage(
            file,
            f"{table}.{column} {count}: {name}",
            lambda run, change=change: _make_cell_damage(file, table, column, count, json.dumps(change())).apply(run),
            plausible or name == "best_loss = None",  # of a generation whose networks all failed
        )


def _make_cell_damage(file: str, table: str, column: str, number: int, value: Any) -> Damage:
    def apply(run: Path) -> None:
        with closing(open_unchecked(run / file)) as connection, connection:
            (rowid,) = connection.execute(f"SELECT rowid FROM {table} LIMIT 1 OFFSET {number - 1}").fetchone()
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, rowid))

    name = f"{table}.{column} {number} = {_shorten(value)[:20]!r}"
    return Damage(file, name, apply, _is_plausible_cell(column, value))


def _is_plausible_cell(column: str, value: Any) -> bool:
    """Return True where only a copy of the row could reveal that `value` is wrong."""
    if column in ("origin", "failure", "fidelity", "subject", "digest"):
        return value != b"\xff\x00" and value is not None
    if isinstance(value, str):
        try:
            value = float(value)  # as a column of numbers does
        except ValueError:
            return False
    if type(value) not in (int, float) or abs(value) > 2**63:
        return False
    if column in ("loss", "test_loss"):
        return True
    if column in ("error", "test_error"):
        return 0 <= value <= 1
    return value >= 0 and (value == int(value) or column in REALS)


def _list_arrays(run: Path, file: str, path: Path) -> Iterator[Damage]:
    arrays = load_file(path)
    for key in sorted(arrays if file == "costs.safetensors" else {min(arrays), max(arrays)}):
        value = arrays[key]
        changed = {
            "NaN": value.astype(np.float64) * np.nan,
            "infinite": value.astype(np.float64) + np.inf,
            "flat": value.ravel(),
            "shorter": value[1:] if value.ndim else value,
            "empty": value.ravel()[:0],
            "of bytes": value.astype(np.uint8),
            "a scalar": np.float32(1).reshape(()),
        }
        others: dict[str, dict[str, Any]] = {
            f"{key} missing": {name: item for name, item in arrays.items() if name != key},
            f"{key} renamed": {("x" if name == key else name): item for name, item in arrays.items()},
            **{f"{key} {name}": {**arrays, key: np.ascontiguousarray(item)} for name, item in changed.items()},
        }
        for name, content in others.items():
            yield _make_array_damage(file, name, content)
            if file in ("dense.safetensors", "scores.safetensors"):
                yield _make_array_damage(file, f"signed, {name}", content, signed=True)


def _make_array_damage(file: str, name: str, content: dict[str, Any], *, signed: bool = False) -> Damage:
    def apply(run: Path) -> None:
        save_file(content, run / file)
        if signed:
            facts = json.loads((run / "run.json").read_text())
            key = {"dense.safetensors": "weights_sha256", "scores.safetensors": "scores_sha256"}[file]
            facts["provenance"][key] = hash_arrays(content)
            (run / "run.json").write_text(json.dumps(facts))
            write_owner(run / "run.sqlite", compute_owner(facts["provenance"]))

    return Damage(file, name, apply, plausible=signed)


def _list_log_lines(file: str) -> Iterator[Damage]:
    lines = {
        "bytes": b"\xff\xfe\x00\n",
        "long": b'{"at": 1, "event": "' + b"x" * 2_000_000 + b'"}\n',
        "deep": b"[" * 100_000 + b"\n",
        "long number": b'{"at": ' + b"9" * 10_000 + b"}\n",
        **{f"{text}": f"{text}\n".encode() for text in ("[]", "{}", "null", "1", '"x"', "NaN", "{", "\u2028")},
        **{
            f"at {value}": f'{{"at": {value}, "worker": 0, "event": "started"}}\n'.encode()
            for value in ('"x"', "null", "NaN", "-1", "1e999", "[]", "{}", "true", "9" * 400)
        },
        "no event": b'{"at": 1, "worker": 0}\n',
        "again a list": b'{"at": 1, "worker": 0, "event": "failed", "again": [1]}\n',
        "worker a list": b'{"at": 1, "worker": [], "event": []}\n',
    }
    for name, line in lines.items():

        def apply(run: Path, line: bytes = line) -> None:
            with open(run / file, "ab") as log:
                log.write(line)

        yield Damage(file, f"line: {name}", apply, plausible="again" in name)


def restore_run(template: Path, run: Path) -> None:
    """Replace the directory `run` by a copy of `template`."""
    if run.is_symlink() or run.is_file():
        run.unlink()
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(template, run, ignore=shutil.ignore_patterns("*.sqlite-*", "lock"))


def read_tree(folder: Path) -> dict[str, bytes | str]:
    """Read all files of a folder, except the lock, and the empty files that reading SQLite makes beside it."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[path.relative_to(folder).as_posix()] = f"link to {os.readlink(path)}"
        elif path.is_file() and path.name != "lock" and not path.name.endswith("-shm"):
            content = path.read_bytes()
            if content or not path.name.endswith("-wal"):
                found[path.relative_to(folder).as_posix()] = content
    return found
