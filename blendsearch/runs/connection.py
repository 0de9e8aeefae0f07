"""Connections to the SQLite file of a run."""

import sqlite3
import time
from pathlib import Path


def connect_writer(path: Path) -> sqlite3.Connection:
    """Connect to `path` to read and write from the thread that calls this."""
    return _connect(path, "", check_same_thread=True)


def connect_reader(path: Path) -> sqlite3.Connection:
    """Connect to `path` to read. On read-only media, no files beside the database are needed.

    The connection may move between threads, as long as one at a time uses it. Raises sqlite3.Error where the file
    cannot be read, or where rows are in a log that cannot be.
    """
    connection = _connect(path, "?mode=ro", check_same_thread=False)
    try:
        try:
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        except sqlite3.OperationalError:  # another process may just be making the files beside the database
            time.sleep(0.05)
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        wal = path.with_name(f"{path.name}-wal")
        if not path.is_file() or (wal.exists() and wal.stat().st_size):
            raise  # missing, or with rows that only the log has
        connection.close()
        return _connect(path, "?mode=ro&immutable=1", check_same_thread=False)
    return connection


def _connect(path: Path, options: str, *, check_same_thread: bool) -> sqlite3.Connection:
    """Connect to `path`, escaped, so that ``#``, ``?`` and ``%`` in a folder's name stay part of it."""
    target = f"{path.absolute().as_uri()}{options}"
    return sqlite3.connect(target, uri=True, isolation_level=None, timeout=30, check_same_thread=check_same_thread)
