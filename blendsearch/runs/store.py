"""The SQLite file of a run. Each evaluation is written when it finishes; other processes read during a search."""

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from blendsearch.errors import RunError
from blendsearch.runs.connection import connect_reader, connect_writer
from blendsearch.runs.decoding import (
    Row,
    check_evaluations,
    decode_json,
    decode_metrics,
    decode_rows,
    refuse_repetition,
    remove_places,
)
from blendsearch.runs.files import check_companions, check_in_place, read_identity
from blendsearch.runs.records import (
    Completion,
    Evaluation,
    FinalResult,
    InheritedEvaluation,
    Latency,
    Probe,
    Promotion,
    RungResult,
    StoredGeneration,
    StoredLatency,
    StoredMetrics,
    StoredRuntimeLatency,
    StoredTest,
    Tally,
    TestResult,
)
from blendsearch.runs.run_facts import GenerationRow, GenerationSummary
from blendsearch.runs.table_layout import check_layout, check_schema
from blendsearch.runs.tables import AGES, KEYS, SCHEMA

_COLUMNS = ", ".join(Evaluation._fields)
MAX_QUERY_VALUES = 500
"""Largest number of values in one query; SQLite allows 999 or more."""


class Store:
    """The evaluations of one run. One process writes; any number read, also during a write.

    A context manager: ``with run.open_store() as store`` closes the connection.
    """

    def __init__(self, path: Path, *, read_only: bool = False, channels: int | None = None, owner: int = 0) -> None:
        """Open the file at `path`, of the run with number `owner`; cuts must fit `channels`, their bits, if given."""
        self.path, self._channels = path, channels
        check_companions(path)
        try:
            self._connection = connect_reader(path) if read_only else connect_writer(path)
            check_schema(self._connection, owner)
            if not read_only:
                check_layout(self._connection)
                self._connection.execute("PRAGMA journal_mode=WAL")
                self._connection.execute("PRAGMA synchronous=FULL")
                self._connection.executescript(SCHEMA)
            self._identity = read_identity(path)
        except sqlite3.Error as error:
            raise RunError(f"{path} cannot be opened: {error}; is this a run directory?") from error
        except ValueError as error:
            raise RunError(f"{path} is damaged ({error}): restore it from a copy") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def add(self, evaluation: Evaluation, asked: int = 0) -> bool:
        """Store one evaluation; see `add_all`."""
        return self.add_all([evaluation], asked)[0]

    def add_all(
        self,
        evaluations: Sequence[Evaluation],
        asked: int = 0,
        extra_metrics: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
    ) -> list[bool]:
        """Store evaluations that are ready together in one transaction, which waits for the disk once.

        Returns False for each whose id, or cut and fidelity, is stored already.

        `asked`: the number of evaluations requested so far. Together with the order of completion, it makes a steady
        search reproducible. `extra_metrics`: further metrics of a user-defined `evaluate` function, by digest; repeated
        ones change nothing.
        """
        with self._convert_write_errors(), self._open_transaction():
            return [self._insert(row, asked, extra_metrics.get(row.digest, {})) for row in evaluations]

    def _insert(self, evaluation: Evaluation, asked: int, extra_metrics: Mapping[str, float]) -> bool:
        marks = ", ".join("?" * len(evaluation))
        added = self._connection.execute(f"INSERT OR IGNORE INTO evaluations VALUES ({marks})", evaluation)
        if added.rowcount:
            came = (evaluation.id, asked, time.time())
            self._connection.execute("INSERT INTO completions (id, asked, at) VALUES (?, ?, ?)", came)
        if extra_metrics:
            numbers = (evaluation.digest, evaluation.fidelity, json.dumps(dict(extra_metrics)))
            self._connection.execute("INSERT OR IGNORE INTO further VALUES (?, ?, ?)", numbers)
        return bool(added.rowcount)

    def check(self) -> None:
        """Read every table. Raises RunError where one is damaged, before a search adds rows that depend on others."""
        rows = (self.read_evaluations, self.read_completions, self.read_inherited, self.read_generations)
        results = (self.read_tests, self.read_promotions, self.read_finals, self.read_probes, self.read_rungs)
        numbers = (self.read_latencies, self.read_runtime_latencies, self.read_extra_metrics)
        readers: Sequence[Callable[[], object]] = (*rows, *results, *numbers)
        for read in readers:
            read()

    def read_evaluations(self) -> list[Evaluation]:
        """Read all evaluations, ordered by id."""
        rows = self._read_records(Evaluation, "evaluations ORDER BY id")
        self._check_evaluations(rows, cuts=True)
        return rows

    def read_bare_evaluations(self, after: int = 0, *, cuts: bool = False) -> list[Evaluation]:
        """Read evaluations with an id above `after`, by id, with an empty genome and, without `cuts`, an empty cut.

        Takes a tenth of the time of `read_evaluations`, for readers that poll.
        """
        cut = "cut" if cuts else "x''"
        rows = self._read(
            f"SELECT id, digest, {cut}, fidelity, seed, generation, origin, '', macs, params, loss, error, seconds, "
            f"failure FROM evaluations WHERE id > {int(after)} OR id < 1 ORDER BY id"
        )
        found = self._decode(rows, Evaluation, "evaluations")
        self._check_evaluations(found, cuts=cuts)
        return found

    def find_evaluations(self, digests: Sequence[str], fidelity: str) -> list[Evaluation]:
        """Find the evaluations of these cuts at `fidelity`, in no particular order."""
        found: list[tuple[Any, ...]] = []
        for start in range(0, len(digests), MAX_QUERY_VALUES):
            part = digests[start : start + MAX_QUERY_VALUES]
            marks = ", ".join("?" * len(part))
            query = f"SELECT {_COLUMNS} FROM evaluations WHERE digest IN ({marks}) AND fidelity = ?"
            found += self._read(query, (*part, fidelity))
        return self._decode(found, Evaluation, "evaluations")

    def read_evaluations_by_id(self, numbers: Sequence[int]) -> list[Evaluation]:
        """Read the evaluations with these ids, ordered by id."""
        found: list[tuple[Any, ...]] = []
        for start in range(0, len(numbers), MAX_QUERY_VALUES):
            part = numbers[start : start + MAX_QUERY_VALUES]
            marks = ", ".join("?" * len(part))
            found += self._read(f"SELECT {_COLUMNS} FROM evaluations WHERE id IN ({marks})", part)
        rows = self._decode(sorted(found), Evaluation, "evaluations")
        self._check_evaluations(rows, cuts=True)
        return rows

    def read_evaluation(self, number: int) -> Evaluation | None:
        """Read the evaluation with id `number`; None where there is none."""
        return next(iter(self.read_evaluations_by_id([number])), None)

    def read_digests(self, after: int, to: int) -> dict[int, str]:
        """Read the digests of the evaluations with ids above `after`, up to `to`, by id."""
        return dict(self._read("SELECT id, digest FROM evaluations WHERE id > ? AND id <= ?", (after, to)))

    def read_last_id(self) -> int:
        """Read the largest id of an evaluation; 0 where there is none."""
        return int(self._read("SELECT coalesce(max(id), 0) FROM evaluations")[0][0])

    def has_origin(self, origin: str) -> bool:
        """Return True if a network of this origin is stored."""
        return bool(self._read("SELECT 1 FROM evaluations WHERE origin = ? ORDER BY id LIMIT 1", (origin,)))

    def tally(self, dense: str) -> Tally:
        """Count all evaluations except those of origin `dense`."""
        query = (
            "SELECT count(*), coalesce(sum(failure != ''), 0), min(CASE WHEN failure = '' THEN error END), "
            "min(CASE WHEN failure = '' THEN loss END) FROM evaluations WHERE origin IS NOT ?"
        )
        (found,) = self._decode(self._read(query, (dense,)), Tally, "evaluations")
        with self._convert_damage("evaluations"):
            if self._read("SELECT count(*) - count(DISTINCT id) FROM evaluations")[0][0]:
                raise ValueError("an id is there twice")
        return found

    def read_version(self) -> int:
        """Read a number that changes whenever another process has written to the file."""
        return int(self._read("PRAGMA data_version")[0][0])

    def read_completions(self, last: int = -1) -> list[Completion]:
        """Read when evaluations, or the `last` of them, were completed, in order; empty for runs of older versions."""
        if not self._has("completions"):
            return []
        with self._convert_damage("completions"):
            rows = remove_places(self._read("SELECT * FROM completions ORDER BY place DESC LIMIT ?", (last,)))
        return self._decode(rows, Completion, "completions", key=KEYS["completions"])[::-1]

    def count_completions(self) -> int:
        """Count the completed evaluations."""
        return int(self._read("SELECT count(*) FROM completions")[0][0])

    def add_inherited(self, items: Sequence[InheritedEvaluation]) -> None:
        """Store the evaluations that a fork inherits, in order, all or none."""
        marks = ", ".join("?" * (1 + len(InheritedEvaluation._fields)))
        with self._convert_write_errors(), self._open_transaction():
            self._connection.executemany(f"INSERT INTO inherited VALUES ({marks})", [(None, *item) for item in items])

    def read_inherited(self) -> list[InheritedEvaluation]:
        """Read the inherited evaluations, in order; empty for a run that is no fork."""
        if not self._has("inherited"):
            return []
        rows = self._read_records(InheritedEvaluation, "inherited ORDER BY place")
        self._parse_column("inherited", [row.genome for row in rows], dict[str, Any])
        return [row._replace(judged=bool(row.judged), begins=bool(row.begins)) for row in rows]

    def add_generation(self, row: GenerationRow) -> None:
        """Store cost and summary of one generation; a repeated one replaces the stored one."""
        values = (row["generation"], row["evaluations"], row["seconds"], row["wall"], json.dumps(row["summary"]))
        with self._convert_write_errors():
            self._connection.execute("INSERT OR REPLACE INTO generations VALUES (?, ?, ?, ?, ?)", values)

    def read_generations(self) -> list[GenerationRow]:
        """Read all generations, in order."""
        rows = self._read_records(StoredGeneration, "generations ORDER BY generation")
        summaries = self._parse_column("generations", [row.summary for row in rows], GenerationSummary)
        return [
            {
                "generation": row.generation,
                "evaluations": row.evaluations,
                "seconds": row.seconds,
                "wall": row.wall,
                "summary": summary,
            }
            for row, summary in zip(rows, summaries, strict=True)
        ]

    def add_test(self, subject: str, result: TestResult) -> None:
        """Store the single test result of a network: ``dense``, or a cut's digest."""
        with self._convert_write_errors():
            self._connection.execute("INSERT OR IGNORE INTO tests VALUES (?, ?, ?)", (subject, *result))

    def read_tests(self) -> dict[str, TestResult]:
        """Read test results by subject."""
        return {row.subject: TestResult(row.loss, row.error) for row in self._read_records(StoredTest, "tests")}

    def add_promotion(self, item: Promotion) -> None:
        """Store one promotion, an evaluation at higher fidelity; a repeated one changes nothing."""
        with self._convert_write_errors():
            self._connection.execute("INSERT OR IGNORE INTO rejudged VALUES (?, ?, ?, ?, ?)", item)

    def read_promotions(self) -> list[Promotion]:
        """Read all promotions, ordered by digest; empty for a run of an older version."""
        if not self._has("rejudged"):
            return []
        return self._read_records(Promotion, "rejudged ORDER BY digest")

    def add_final(self, final: FinalResult) -> None:
        """Store one long fine-tune; a repeated one changes nothing."""
        with self._convert_write_errors():
            self._connection.execute("INSERT OR IGNORE INTO finals VALUES (?, ?, ?, ?, ?, ?, ?)", final)

    def read_finals(self) -> list[FinalResult]:
        """Read all long fine-tunes, ordered by digest and seed; empty for a run of an older version."""
        if not self._has("finals"):
            return []
        return self._read_records(FinalResult, "finals ORDER BY digest, repeat")

    def add_probe(self, probe: Probe) -> None:
        """Store one probe; a repeated one changes nothing."""
        with self._convert_write_errors():
            self._connection.execute("INSERT OR IGNORE INTO probes VALUES (?, ?, ?, ?, ?, ?, ?)", probe)

    def read_probes(self) -> list[Probe]:
        """Read all probes, in order of completion; empty for a run of an older version."""
        if not self._has("probes"):
            return []
        return self._read_records(Probe, "probes ORDER BY rowid")

    def add_rung(self, result: RungResult) -> None:
        """Store one training of the ladder; a repeated one changes nothing."""
        with self._convert_write_errors():
            self._connection.execute("INSERT OR IGNORE INTO rungs VALUES (?, ?, ?, ?, ?, ?, ?)", result)

    def read_rungs(self) -> list[RungResult]:
        """Read all trainings of the ladder, in order of completion; empty for a run without one."""
        if not self._has("rungs"):
            return []
        return self._read_records(RungResult, "rungs ORDER BY rowid")

    def add_latency(self, digest: str, latency: Latency) -> None:
        """Store the measured latency of a network; a repeated one changes nothing."""
        with self._convert_write_errors():
            self._connection.execute("INSERT OR IGNORE INTO latencies VALUES (?, ?, ?)", (digest, *latency))

    def read_latencies(self) -> dict[str, Latency]:
        """Read measured latencies by digest; empty for a run of an older version."""
        if not self._has("latencies"):
            return {}
        rows = self._read_records(StoredLatency, "latencies")
        return {row.digest: Latency(row.ratio, row.seconds) for row in rows}

    def add_runtime_latency(self, digest: str, runtime: str, latency: Latency) -> None:
        """Store the measured latency of a network in a further runtime; a repeated one changes nothing."""
        with self._convert_write_errors():
            self._connection.execute(
                "INSERT OR IGNORE INTO runtime_latencies VALUES (?, ?, ?, ?)", (digest, runtime, *latency)
            )

    def read_runtime_latencies(self) -> dict[str, dict[str, Latency]]:
        """Read latencies in further runtimes by digest and runtime; empty for a run of an older version."""
        if not self._has("runtime_latencies"):
            return {}
        found: dict[str, dict[str, Latency]] = {}
        for row in self._read_records(StoredRuntimeLatency, "runtime_latencies"):
            found.setdefault(row.digest, {})[row.runtime] = Latency(row.ratio, row.seconds)
        return found

    def read_extra_metrics(self) -> dict[str, dict[str, float]]:
        """Read further metrics by digest; empty for a run without a user-defined `evaluate` function."""
        if not self._has("further"):
            return {}
        rows = self._read_records(StoredMetrics, "further")
        with self._convert_damage("further"):
            return {row.digest: decode_metrics(row.numbers) for row in rows}

    def close(self) -> None:
        """Close the connection to the file."""
        self._connection.close()

    def _has(self, table: str) -> bool:
        """Return False where the run is of a version without `table`. Raises RunError where a later one is there."""
        names = {name for (name,) in self._read("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if table not in names and any(AGES[name] > AGES[table] for name in names & AGES.keys()):
            raise RunError(f"{self.path} is damaged (the table {table} is missing): restore it from a copy")
        return table in names

    def _read(self, query: str, values: Sequence[Any] = ()) -> Sequence[tuple[Any, ...]]:
        try:
            return self._connection.execute(query, values).fetchall()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise RunError(f"{self.path} cannot be read: {error}; is this a run directory?") from error

    def _read_records(self, kind: type[Row], source: str) -> list[Row]:
        """Read the columns of a table, the first word of `source`, that `kind` has as fields."""
        table = source.partition(" ")[0]
        rows = self._read(f"SELECT {', '.join(f'{table}.{name}' for name in kind._fields)} FROM {source}")
        return self._decode(rows, kind, table, KEYS.get(table, ()))

    def _decode(
        self, rows: Sequence[tuple[Any, ...]], kind: type[Row], table: str, key: Sequence[str] = ()
    ) -> list[Row]:
        with self._convert_damage(table):
            return refuse_repetition(decode_rows(rows, kind), key)

    def _parse_column(self, table: str, texts: Sequence[str], kind: Any) -> list[Any]:
        with self._convert_damage(table):
            return [decode_json(text, kind) for text in texts]

    def _check_evaluations(self, rows: Sequence[Evaluation], *, cuts: bool) -> None:
        if self._channels is not None:
            with self._convert_damage("evaluations"):
                check_evaluations(rows, self._channels if cuts else None)

    @contextmanager
    def _convert_damage(self, table: str) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise RunError(f"{self.path} is damaged ({table}: {error}): restore it from a copy") from error

    @contextmanager
    def _open_transaction(self) -> Iterator[None]:
        """Write all statements inside, or none."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with suppress(sqlite3.Error):  # a full disk has rolled back already
                self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    @contextmanager
    def _convert_write_errors(self) -> Iterator[None]:
        """Raise RunError where the statements inside fail, or where the file is no longer at its path afterwards.

        A row is written before this check: in a run directory that was moved, it is stored.
        """
        try:
            yield
            check_in_place(self.path, self._identity)
        except sqlite3.Error as error:
            check_in_place(self.path, self._identity)
            raise RunError(
                f"{self.path} cannot be written ({error}): earlier results are intact; free some space and resume"
            ) from error
