"""Checks of a database's schema: one that others changed could run statements of its own, or ignore rows."""

import re
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from functools import cache
from pathlib import Path

from blendsearch.runs.connection import connect_writer
from blendsearch.runs.tables import SCHEMA

_IGNORED = re.compile(r"--[^\n]*|[\s\"'`\[\]]|IF NOT EXISTS|NOT NULL", re.IGNORECASE)
"""What two definitions of the same table may differ in: values are checked when they are read."""


def check_schema(connection: sqlite3.Connection, owner: int) -> None:
    """Raise ValueError where others have added to the schema, or where the database is not that of run `owner`.

    0 is an unknown owner, as of the databases of older versions.
    """
    _check_objects(connection)
    (stored,) = connection.execute("PRAGMA user_version").fetchone()
    if owner and stored not in (0, owner):
        raise ValueError("it is the database of another run than run.json")


def _check_objects(connection: sqlite3.Connection) -> None:
    """Raise ValueError where the database has triggers, views or virtual tables: these run statements of their own."""
    for kind, name, sql in _list_objects(connection):
        if kind not in ("table", "index"):
            raise ValueError(f"it has a {kind}, {name[:40]!r}, which blendsearch does not make")
        if re.match(r"\s*CREATE\s+VIRTUAL", sql, re.IGNORECASE):
            raise ValueError(f"it has a virtual table, {name[:40]!r}, which blendsearch does not make")


def write_owner(path: Path, owner: int) -> None:
    """Write the number of the run that the database at `path` belongs to."""
    with closing(connect_writer(path)) as connection:
        connection.execute(f"PRAGMA user_version = {owner}")


def check_layout(connection: sqlite3.Connection) -> None:
    """Raise ValueError where a table has other columns, types or keys than `SCHEMA`, or further unique keys.

    Without its own keys, a table would store repeated rows; with others, it would ignore rows.
    """
    expected = _list_definitions()
    for kind, name, sql in _list_objects(connection):
        if kind == "table" and _simplify(sql) != expected.get(name, _simplify(sql)):
            raise ValueError(f"the table {name} has other columns or keys than blendsearch makes")
        if kind == "index" and re.match(r"\s*CREATE\s+UNIQUE", sql, re.IGNORECASE):
            raise ValueError(f"it has a unique index, {name[:40]!r}, which blendsearch does not make")


def _list_objects(connection: sqlite3.Connection) -> Iterable[tuple[str, str, str]]:
    """List type, name and definition of all objects; that of an index which belongs to a key is empty."""
    query = "SELECT type, name, coalesce(sql, '') FROM sqlite_master"
    return ((str(kind), str(name), str(sql)) for kind, name, sql in connection.execute(query).fetchall())


@cache
def _list_definitions() -> dict[str, str]:
    connection = sqlite3.connect(":memory:")
    connection.executescript(SCHEMA)
    found = {name: _simplify(sql) for kind, name, sql in _list_objects(connection) if kind == "table"}
    connection.close()
    return found


def _simplify(sql: str) -> str:
    return _IGNORED.sub("", sql).lower()
