"""One damage to a run directory, and how to make it: other bytes, or statements of SQL."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Damage:
    """A change to the run directory that `apply` receives.

    Attributes
    ----------
    plausible: the new content is valid in itself, so that only a copy could reveal it.
    """

    file: str
    name: str
    apply: Callable[[Path], None]
    plausible: bool = False

    def __str__(self) -> str:
        return f"{self.file}: {self.name}"


def make_writer(file: str, content: bytes) -> Callable[[Path], None]:
    def write(run: Path) -> None:
        (run / file).write_bytes(content)

    return write


def make_sql_damage(file: str, name: str, *statements: str, plausible: bool = False) -> Damage:
    def apply(run: Path) -> None:
        with closing(open_unchecked(run / file)) as connection, connection:
            for statement in statements:
                connection.execute(statement)

    return Damage(file, name, apply, plausible)


def open_unchecked(path: Path) -> sqlite3.Connection:
    """Open a database without its NOT NULL constraints."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', '')")
    return sqlite3.connect(path)
