"""The work of a long search: a generation reads its own rows only, and resuming repeats only the last of a journal."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_schedules import TREE, OutOfOrder, Stopped, begun, gone_through, with_search

from blendsearch.blend.decoder import Decoder
from blendsearch.engine.local import LocalEngine
from blendsearch.errors import RunError
from blendsearch.events import Event, ignore_event
from blendsearch.pipeline import steady
from blendsearch.pipeline.loop import search
from blendsearch.pipeline.problem.builder import build_problem
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.runs.config.loading import parse_config
from blendsearch.runs.pareto import ParetoArchive, compute_hypervolume, find_non_dominated
from blendsearch.runs.run import Run, open_run
from blendsearch.runs.store import Store


@pytest.fixture(scope="module")
def prepared() -> Problem:
    return build_problem(parse_config(TREE, "test"), ignore_event)


def read_rows(run: Run) -> list[tuple[Any, ...]]:
    """Read all evaluations, except their seconds."""
    with run.open_store(read_only=True) as store:
        return [row._replace(seconds=0.0) for row in store.read_evaluations()]


@pytest.mark.parametrize("schedule", ["generational", pytest.param("steady", marks=pytest.mark.slow)])
def test_no_generation_reads_the_rows_of_earlier_ones(
    schedule: str, prepared: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = with_search(prepared, schedule=schedule, evaluations=96)
    counts, read = [0], Store._read

    def count_rows(store: Store, query: str, values: Sequence[Any] = ()) -> Any:
        found = read(store, query, values)
        counts[-1] += len(found)
        return found

    def report(event: Event) -> None:
        if event.kind == "generation":
            counts.append(0)

    monkeypatch.setattr(Store, "_read", count_rows)
    search(begun(problem, tmp_path, "one"), problem, LocalEngine(problem.evaluator), report)
    later = counts[2:-1]
    assert len(later) >= 8 and max(later) <= 2 * problem.config.search.population, counts


@pytest.mark.parametrize("optimizer", ["random", "nsga2"])
def test_every_evaluated_cut_is_decoded_once(
    optimizer: str, prepared: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = with_search(prepared, optimizer=optimizer)
    decoded: list[tuple[float, ...]] = []
    decode = Decoder.decode

    def count(decoder: Decoder, genome: Any) -> Any:
        decoded.append(tuple(genome.flatten()))
        return decode(decoder, genome)

    monkeypatch.setattr(Decoder, "decode", count)
    gone_through(begun(problem, tmp_path, "one"), problem, LocalEngine(problem.evaluator))
    assert len(decoded) == len(set(decoded)) >= problem.config.search.evaluations


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("optimizer", ["auto", "nsga2", "random"])
def test_a_steady_search_resumes_from_a_checkpoint_as_from_its_whole_journal(
    optimizer: str, workers: int, prepared: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steady, "CHECKPOINT_INTERVAL", 8)
    problem = with_search(prepared, schedule="steady", optimizer=optimizer)
    run = begun(problem, tmp_path, "one")
    with pytest.raises(Stopped):
        gone_through(run, problem, OutOfOrder(problem, workers, 3, 30))
    assert list(run.checkpoints.glob("generation-*.json"))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    shutil.rmtree(tmp_path / "two" / "checkpoints")
    asked = count_requests(problem, run)
    whole = open_run(tmp_path, "two")
    asked_whole = count_requests(problem, whole)
    assert read_rows(run) == read_rows(whole)
    assert asked < asked_whole


def count_requests(problem: Problem, run: Run) -> int:
    """Resume `run` and count the candidates that the optimizer was asked for or had results of."""
    count = 0
    with pytest.MonkeyPatch.context() as patch:
        tell = steady.CandidateTracker.tell

        def count_tell(*arguments: Any) -> None:
            nonlocal count
            count += 1
            tell(*arguments)

        patch.setattr(steady.CandidateTracker, "tell", count_tell)
        gone_through(run, problem, OutOfOrder(problem, 1, 0))
    return count


def test_a_journal_shorter_than_its_checkpoint_is_refused(
    prepared: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steady, "CHECKPOINT_INTERVAL", 8)
    problem = with_search(prepared, schedule="steady")
    run = begun(problem, tmp_path, "one")
    with pytest.raises(Stopped):
        gone_through(run, problem, OutOfOrder(problem, 1, 3, 30))
    with run.open_store() as store:
        store._connection.executescript(
            "DELETE FROM evaluations WHERE id > 9; DELETE FROM completions WHERE id > 9; DELETE FROM generations"
        )
    with pytest.raises(RunError, match="its last checkpoint counts: restore the file"):
        gone_through(run, problem, LocalEngine(problem.evaluator))


def test_damaged_checkpoints_do_not_end_a_steady_search(
    prepared: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steady, "CHECKPOINT_INTERVAL", 8)
    problem = with_search(prepared, schedule="steady")
    whole, run = begun(problem, tmp_path, "whole"), begun(problem, tmp_path, "one")
    gone_through(whole, problem, LocalEngine(problem.evaluator))
    with pytest.raises(Stopped):
        gone_through(run, problem, OutOfOrder(problem, 1, 3, 30))
    for path in run.checkpoints.glob("generation-*.json"):
        path.write_text("{")
    said = gone_through(run, problem, LocalEngine(problem.evaluator))
    assert any("repeats its whole journal" in text for text in said)
    assert read_rows(run) == read_rows(whole)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), max_size=9), max_size=9))
def test_an_archive_has_the_front_and_the_volume_of_all_its_points(batches: list[list[tuple[int, int, int]]]) -> None:
    archive, points = ParetoArchive(), list[tuple[float, ...]]()
    for batch in batches:
        for point in batch:
            points.append(tuple(value / 10 for value in point))
            archive.add(len(points), points[-1])
        table = np.array(points).reshape(-1, 3)
        assert archive.compute_front().tolist() == table[find_non_dominated(table)].tolist()
        assert compute_hypervolume(archive.compute_front()) == pytest.approx(compute_hypervolume(table), abs=1e-14)


def test_a_resumed_search_records_the_generations_of_an_undisturbed_one(prepared: Problem, tmp_path: Path) -> None:
    problem = dataclasses.replace(prepared)
    whole, run = begun(problem, tmp_path, "whole"), begun(problem, tmp_path, "one")
    gone_through(whole, problem, LocalEngine(problem.evaluator))
    with pytest.raises(Stopped):
        gone_through(run, problem, OutOfOrder(problem, 1, 3, 30))
    gone_through(run, problem, LocalEngine(problem.evaluator))
    summaries = []
    for item in (whole, run):
        with item.open_store(read_only=True) as store:
            summaries.append([(row["evaluations"], row["summary"]) for row in store.read_generations()])
    assert summaries[0] == summaries[1]
