"""Further damages to a run directory: entries of other kinds, other encodings, files of other runs, changed schemas."""

import json
import os
import shutil
import sqlite3
import stat
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from damage import Damage, make_sql_damage, make_writer, open_unchecked
from golden.cases import RUNS

from blendsearch.runs.run_facts import compute_owner
from blendsearch.runs.table_layout import write_owner

TIMES = {"in the year 36812": 2**40, "in the year 1901": -(2**31), "in 1970": 0}
"""Times of the last change, in seconds since 1970."""
EXTRAS = (
    *("checkpoints/generation-99999.json", "checkpoints/generation-new.json", "derived/generation-99999.json"),
    *(
        "tailored/generation-99999.json",
        "logs/worker-9.jsonl",
        "finals/extra.safetensors",
        "lock",
        "elastic.safetensors",
    ),
    *("labels.json", "process.json", ".run.json.draft", "finished.json", "run.sqlite-journal", "run.sqlite-shm"),
    *("training/extra.pt", "controls/extra/run.json", "extra.bin", "costs.safetensors"),
)
"""Files that a run may have, or that a user may have put there."""
OPTIONAL = ("elastic.safetensors", "costs.safetensors", "finished.json")
"""Files whose presence is a fact of the run."""


def list_entries(run: Path) -> Iterator[Damage]:
    """List damages to the folders of `run`, and additions to it."""
    for path in sorted(path for path in run.rglob("*") if path.is_dir()):
        file = path.relative_to(run).as_posix()
        for name, replace in _ENTRIES.items():
            yield Damage(file, f"folder, {name}", _replace_by(file, replace), plausible=True)
    for file in EXTRAS:
        if not (run / file).exists():
            kinds = {**_ENTRIES, "empty": Path.touch, "braces": lambda path: path.write_bytes(b"{}"),
                     "junk": lambda path: path.write_bytes(b"\xff\x00junk" * 100)}  # fmt: skip
            for name, replace in kinds.items():
                yield Damage(file, f"added, {name}", _replace_by(file, replace), plausible=file in OPTIONAL)


def _replace_by(file: str, replace: Callable[[Path], object]) -> Callable[[Path], None]:
    def apply(run: Path) -> None:
        path = run / file
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path)

    return apply


def _make_socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


def _make_full_folder(path: Path) -> None:
    path.mkdir()
    (path / "file").write_text("x")


_ENTRIES: dict[str, Callable[[Path], object]] = {
    "a folder with a file": _make_full_folder,
    "a file": lambda path: path.write_text("x"),
    "a link to nothing": lambda path: path.symlink_to("absent"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to the folder above": lambda path: path.symlink_to(".."),
    "a pipe": lambda path: os.mkfifo(path),
    "a socket": _make_socket,
    "missing": lambda path: None,
}


def list_further_content(run: Path, file: str, path: Path) -> Iterator[Damage]:
    """List damages to the file at `path`: its kind, time and encoding, the file of another run, and its format."""
    text = path.suffix in (".json", ".jsonl", ".yaml")
    yield Damage(file, "a socket", _replace_by(file, _make_socket))
    yield Damage(file, "a folder with a file", _replace_by(file, _make_full_folder))
    for name, seconds in TIMES.items():
        yield Damage(
            file, f"changed {name}", lambda run, seconds=seconds: os.utime(run / file, (seconds, seconds)), True
        )
    others = [other for other in sorted(RUNS.iterdir()) if other.name != run.name and (other / file).is_file()]
    for other in [other for other in others if (other / file).read_bytes() != path.read_bytes()][::3]:
        plausible = path.suffix in (".jsonl", ".yaml") or path.name in ("finished.json", "engine.json")
        yield Damage(file, f"of run {other.name}", _make_exchange(file, other), plausible)
    if text:
        yield from _list_encodings(file, path.read_text(encoding="utf-8"))
    if path.suffix == ".json":
        yield from _list_repeated_keys(file, path.read_text(encoding="utf-8"))
    elif path.suffix == ".yaml":
        yield from _list_yaml(file, path.read_text(encoding="utf-8"))
    elif path.suffix == ".safetensors":
        yield from _list_headers(file, path.read_bytes())
    elif path.suffix == ".sqlite":
        yield from _list_schemas(run, file, path)


def _make_exchange(file: str, other: Path) -> Callable[[Path], None]:
    """Put the file of another run, as this version would have written it, in the place of `file`."""

    def apply(run: Path) -> None:
        shutil.copyfile(other / file, run / file)
        if file == "run.sqlite":
            write_owner(run / file, compute_owner(json.loads((other / "run.json").read_text())["provenance"]))

    return apply


def _list_encodings(file: str, text: str) -> Iterator[Damage]:
    contents = {
        "a byte order mark": text.encode("utf-8-sig"),
        "CRLF": text.replace("\n", "\r\n").encode(),
        "CR": text.replace("\n", "\r").encode(),
        "UTF-16": text.encode("utf-16"),
        "UTF-32": text.encode("utf-32"),
        "an umlaut in Latin-1": text.replace("e", "\xe9", 1).encode("latin-1", "replace"),
        "a NUL in it": text[: len(text) // 2].encode() + b"\x00" + text[len(text) // 2 :].encode(),
        "spaces after it": text.encode() + b"  \n\n\t",
        "twice": text.encode() * 2,
    }
    for name, content in contents.items():
        yield Damage(file, name, make_writer(file, content), plausible=not file.endswith(".json"))


def _list_repeated_keys(file: str, text: str) -> Iterator[Damage]:
    tree = json.loads(text)
    if isinstance(tree, dict):
        for key, value in tree.items():
            doubled = f"{{{json.dumps(key)}: {json.dumps(value)}, {json.dumps(tree)[1:]}"
            yield Damage(file, f"the key {key} twice", make_writer(file, doubled.encode()))
            other = {("\ufeff" + name if name == key else name): item for name, item in tree.items()}
            yield Damage(file, f"the key {key} with a mark", make_writer(file, json.dumps(other).encode()))


def _list_yaml(file: str, text: str) -> Iterator[Damage]:
    contents = {
        "a key twice": f"{text}\n{text}",
        "an alias of itself": f"{text}\nloop: &loop [*loop]\n",
        "a tag": f'{text}\nx: !!python/object/apply:os.system ["true"]\n',
        "a tab": f"\t{text}",
        "many aliases": "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
            f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "other numbers": text.replace("0.5", "0.25"),
    }  # fmt: skip
    for name, content in contents.items():
        yield Damage(file, name, make_writer(file, content.encode()), plausible=True)


def _list_headers(file: str, raw: bytes) -> Iterator[Damage]:
    (size,) = struct.unpack("<Q", raw[:8])
    header, body = json.loads(raw[8 : 8 + size]), raw[8 + size :]
    key = min(name for name in header if name != "__metadata__")

    def change(**facts: object) -> bytes:
        return _pack({**header, key: {**header[key], **facts}}) + body

    start, end = header[key]["data_offsets"]
    contents = {
        "a long header": struct.pack("<Q", 2**63) + raw[8:],
        "a header without end": struct.pack("<Q", size + len(body)) + raw[8:],
        "no header": struct.pack("<Q", 0) + raw[8:],
        "a name twice": _pack_text(json.dumps(header)[:-1] + f", {json.dumps(key)}: {json.dumps(header[key])}}}")
        + body,
        "a header with metadata": _pack({"__metadata__": {"a": "b"}, **header}) + body,
        "a header of NaN": _pack_text('{"x": NaN}') + body,
        **{f"dtype {kind}": change(dtype=kind) for kind in ("F64", "I32", "BF16", "F8_E4M3", "BOOL", "x")},
        "a huge shape": change(shape=[2**62, 4]),
        "a negative shape": change(shape=[-1]),
        "a shape of floats": change(shape=[1.5]),
        "a flat shape": change(shape=[(end - start) // 4]),
        "offsets behind the end": change(data_offsets=[start + 2**40, end + 2**40]),
        "offsets backwards": change(data_offsets=[end, start]),
        "one byte more": raw + b"\x00",
        "half a tensor": raw[:-3],
    }
    for name, content in contents.items():
        yield Damage(file, f"safetensors, {name}", make_writer(file, content))


def _pack(header: object) -> bytes:
    return _pack_text(json.dumps(header, separators=(",", ":")))


def _pack_text(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<Q", len(content)) + content


def _list_schemas(run: Path, file: str, path: Path) -> Iterator[Damage]:
    with closing(sqlite3.connect(path)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = {table: [row[1] for row in connection.execute(f"PRAGMA table_info({table})")] for table in tables}
    for table, names in columns.items():
        typed = ", ".join(f"{name} TEXT" for name in names)
        number = names[-2]
        kinds = {
            "with a trigger": [f"CREATE TRIGGER t AFTER INSERT ON {table} BEGIN DELETE FROM {table}; END"],
            "a view": [f"ALTER TABLE {table} RENAME TO hidden", f"CREATE VIEW {table} AS SELECT * FROM hidden"],
            "an endless view": [
                f"DROP TABLE {table}",
                f"CREATE VIEW {table} AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) "
                f"SELECT {', '.join(f'x AS {name}' for name in names)} FROM n",
            ],
            "a virtual table": [
                f"DROP TABLE {table}",
                f"CREATE VIRTUAL TABLE {table} USING fts5({', '.join(names).replace('rank', 'r')})",
            ],
            "with a unique index": [f"CREATE UNIQUE INDEX i ON {table}({number}) WHERE 0"],
            "with a further column": [f"ALTER TABLE {table} ADD COLUMN further_column"],
            "without keys": [
                f"CREATE TABLE copy AS SELECT * FROM {table}",
                f"DROP TABLE {table}",
                f"ALTER TABLE copy RENAME TO {table}",
            ],
            "of texts": [
                f"CREATE TABLE copy ({typed})",
                f"INSERT INTO copy SELECT * FROM {table}",
                f"DROP TABLE {table}",
                f"ALTER TABLE copy RENAME TO {table}",
            ],
        }
        for name, statements in kinds.items():
            yield make_sql_damage(file, f"{table} {name}", *statements, plausible=name != "of texts")
        yield make_sql_damage(
            file,
            f"{table} of invalid text",
            f"UPDATE {table} SET {number} = CAST(x'fffe41' AS TEXT) WHERE rowid = (SELECT max(rowid) FROM {table})",
        )
    changes = {
        "ids negative": "UPDATE evaluations SET id = -id",
        "ids with a gap": "UPDATE evaluations SET id = id + 1000 WHERE id = (SELECT max(id) FROM evaluations)",
        "ids from 1000": "UPDATE evaluations SET id = id + 1000",
        "times in 2100": "UPDATE completions SET at = at + 2400000000",
        "times in the year 36812": "UPDATE completions SET at = 1e12",
        "seconds zero": "UPDATE evaluations SET seconds = 0",
        "names of origins": "UPDATE evaluations SET origin = 'L1 \u202e\U0001f600 = x' WHERE id = 2",
        "of another run": "PRAGMA user_version = -7",
        "application id": "PRAGMA application_id = 252006674",
    }
    for name, statement in changes.items():
        yield make_sql_damage(file, name, statement, plausible=name != "ids negative")
    for other in ("killed-groups", "killed-nsga3"):
        if run.name != other:
            yield Damage(file, f"the log of run {other} beside it", _make_log_writer(file, other), plausible=True)
    yield Damage(file, "a journal of junk beside it", make_writer(f"{file}-journal", b"junk" * 2000))
    yield Damage(file, "a malformed definition", _break_definition(file))


def _make_log_writer(file: str, other: str) -> Callable[[Path], None]:
    """Put the write-ahead log of another database beside the one of the run."""

    def apply(run: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            copy = shutil.copy(RUNS / other / "run.sqlite", folder)
            with closing(sqlite3.connect(copy)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("UPDATE evaluations SET seed = seed + 1")
                connection.commit()
                shutil.copy(f"{copy}-wal", run / f"{file}-wal")

    return apply


def _break_definition(file: str) -> Callable[[Path], None]:
    def apply(run: Path) -> None:
        with closing(open_unchecked(run / file)) as connection, connection:
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute("UPDATE sqlite_master SET sql = 'CREATE TABLE junk junk' WHERE name = 'finals'")

    return apply
