"""One contract for both schedules: what was asked for is judged once, at the budget, whatever comes back when."""

import contextlib
import dataclasses
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from run_files import journal
from torch import nn

from blendsearch.cli.main import main
from blendsearch.engine.base import Engine, submit_nothing
from blendsearch.engine.local import LocalEngine
from blendsearch.events import Event, ignore_event
from blendsearch.fitness.evaluator import Outcome, Request
from blendsearch.pipeline import steady
from blendsearch.pipeline.loop import search
from blendsearch.pipeline.problem.builder import build_problem
from blendsearch.pipeline.problem.persistence import record
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.results.summary import summarize_run
from blendsearch.runs.config.loading import parse_config
from blendsearch.runs.run import Run, open_run
from blendsearch.runs.store import Store
from blendsearch.runs.worker_logs import WorkerLogs
from blendsearch.training.training_store import TrainingStore

SCHEDULES = ["generational", "steady"]
EVALUATIONS = 40


class Stopped(Exception):
    """The searching process is gone."""


class OutOfOrder:
    """An engine of so many workers whose evaluations, real ones, come back in a random order.

    Stops for good after `lasts` of them; fails those whose digest is in `failing`. With `together`, up to so many are
    ready at the same time.
    """

    def __init__(
        self, problem: Problem, workers: int, seed: int, lasts: int = 10**9, failing: str = "", together: int = 1
    ) -> None:
        self.together = together
        self.workers, self.asked, self.lasts, self.failing = workers, list[str](), lasts, failing
        self.evaluator, self.rng = problem.evaluator, np.random.default_rng(seed)
        self.queue: list[Request] = []

    @property
    def busy_workers(self) -> int:
        return min(self.workers, len(self.queue))

    def submit(self, asked: Request) -> None:
        self.queue.append(asked)
        self.asked.append(f"{asked.digest} {asked.split}")

    def iter_outcomes(self, feed: Callable[[], None] = submit_nothing) -> Iterator[Outcome]:
        while True:
            feed()
            if not self.queue:
                return
            for _ in range(min(self.together, self.workers, len(self.queue))):
                yield self.evaluate_one()

    def evaluate_one(self) -> Outcome:
        if not self.lasts:
            raise Stopped
        self.lasts -= 1
        asked = self.queue.pop(int(self.rng.integers(min(self.workers, len(self.queue)))))
        if asked.split == "val" and asked.digest[:1] in self.failing and asked.fidelity != "raw":
            return Outcome(asked.digest, np.nan, np.nan, 0.0, "it was to fail", asked.seed)
        return self.evaluator.evaluate(asked)

    def attach_store(self, store: TrainingStore) -> None:
        pass

    def attach_tuned(self, network: nn.Module) -> None:
        pass

    def start_telemetry(self, run: str, logs: WorkerLogs) -> None:
        """Nothing is written down."""

    def receive_event(self, event: Event) -> None:
        """Nothing is published."""

    def close(self) -> None:
        self.queue.clear()


TREE: dict[str, Any] = {
    "model": {"factory": "digits_net", "arguments": {"width": 8}, "train": {"epochs": 2, "rate": 0.1}},
    "data": {"dataset": "digits", "val_size": 0.3},
    "criteria": {"pool": ["l1", "bn_gamma", "apoz"], "images": 64},
    "budget": {"macs": 0.5, "round_to": 1},
    "fitness": {"recalibration_images": 64, "device": "cpu"},
    "search": {"evaluations": EVALUATIONS, "population": 8},
    "finals": {"picks": 0},
    "engine": {"threads": 1},
}


@pytest.fixture(scope="module")
def prepared() -> Problem:
    return build_problem(parse_config(TREE, "test"), ignore_event)


def with_search(problem: Problem, **fields: Any) -> Problem:
    config = problem.config
    changed = config.model_copy(update={"search": config.search.model_copy(update=fields)})
    return dataclasses.replace(problem, config=changed)


def begun(problem: Problem, folder: Path, name: str) -> Run:
    return record(problem, folder, name, ["test"])


def gone_through(run: Run, problem: Problem, engine: Engine) -> list[str]:
    """What was said."""
    said: list[str] = []
    search(run, problem, engine, lambda event: said.append(f"{event.kind} {getattr(event, 'text', '')}"))
    return said


@pytest.mark.parametrize(
    ("workers", "optimizer"),
    [
        *((1, "auto"), (3, "nsga2"), (60, "random")),
        *(
            pytest.param(workers, optimizer, marks=pytest.mark.slow)
            for workers, optimizer in (
                (3, "auto"),
                (60, "auto"),
                (1, "nsga2"),
                (60, "nsga2"),
                (1, "random"),
                (3, "random"),
            )
        ),
    ],
)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_evaluation_asked_for_is_judged_once_and_the_end_is_below_the_baselines(
    schedule: str, workers: int, optimizer: str, prepared: Problem, tmp_path: Path
) -> None:
    problem = with_search(prepared, schedule=schedule, optimizer=optimizer)
    run = begun(problem, tmp_path, "one")
    engine = OutOfOrder(problem, workers, seed=workers)
    gone_through(run, problem, engine)
    rows = journal(run)
    assert [row[0] for row in rows] == list(range(1, EVALUATIONS + 1))
    assert len({row[1] for row in rows}) == EVALUATIONS
    assert len(engine.asked) == len(set(engine.asked))
    found = summarize_run(run)
    assert min(row.val_loss for row in found.front) <= min(row.val_loss for row in found.baselines)
    assert all(row.macs_ratio <= 0.5 and row.test_accuracy is not None for row in found.front)
    store = run.open_store(read_only=True)
    assert sorted(item.id for item in store.read_completions()) == list(range(EVALUATIONS + 1))
    assert sum(item["evaluations"] for item in store.read_generations()) == EVALUATIONS
    store.close()
    assert json.loads((run.path / "finished.json").read_text())["evaluations"] == EVALUATIONS


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_with_one_worker_a_search_stopped_anywhere_ends_as_the_undisturbed_one(
    schedule: str, prepared: Problem, tmp_path: Path
) -> None:
    problem = with_search(prepared, schedule=schedule, evaluations=24)
    whole = begun(problem, tmp_path, "whole")
    gone_through(whole, problem, LocalEngine(problem.evaluator))
    for lasts in (1, 17, 24, 27):
        run = begun(problem, tmp_path, f"stopped-{lasts}")
        with pytest.raises(Stopped):
            gone_through(run, problem, OutOfOrder(problem, 1, 0, lasts))
        gone_through(run, problem, LocalEngine(problem.evaluator))
        assert journal(run) == journal(whole)
        assert summarize_run(run) == summarize_run(whole)


@pytest.mark.parametrize("schedule", SCHEDULES)
@settings(max_examples=2)
@given(
    seed=st.integers(0, 99),
    workers=st.integers(1, 12),
    stops=st.lists(st.integers(1, 25), max_size=3),
    together=st.integers(1, 4),
)
def test_however_often_it_is_stopped_nothing_that_was_stored_is_lost_or_judged_again(
    schedule: str, seed: int, workers: int, stops: list[int], together: int, prepared: Problem, tmp_path_factory: Any
) -> None:
    problem = with_search(prepared, schedule=schedule)
    run = begun(problem, tmp_path_factory.mktemp("runs"), "one")
    failing = "0"
    asked: list[str] = []
    for number, lasts in enumerate([*stops, 10**9]):
        before = journal(run)
        engine = OutOfOrder(problem, workers, seed + number, lasts, failing, together)
        with contextlib.suppress(Stopped):
            gone_through(run, problem, engine)
        assert set(before) <= set(journal(run))
        assert not {f"{row[1]} val" for row in before} & set(engine.asked)
        asked += engine.asked
    rows = journal(run)
    assert [row[0] for row in rows] == list(range(1, EVALUATIONS + 1))
    for _, digest, loss, failure in rows:
        assert bool(failure) == (digest[0] in failing) == (loss is None)
    # what was out when it was stopped is asked for again, under the same number; nothing else is
    assert len(asked) - len(set(asked)) <= len(stops) * max(workers, problem.config.search.population + 16)


def test_a_generational_search_ends_the_same_with_any_workers(prepared: Problem, tmp_path: Path) -> None:
    whole = begun(prepared, tmp_path, "whole")
    gone_through(whole, prepared, LocalEngine(prepared.evaluator))
    for workers in (2, 9):
        other = begun(prepared, tmp_path, f"workers-{workers}")
        gone_through(other, prepared, OutOfOrder(prepared, workers, 3))
        assert journal(other) == journal(whole) and summarize_run(other) == summarize_run(whole)


def test_a_steady_search_keeps_every_worker_supplied(prepared: Problem, tmp_path: Path) -> None:
    problem = with_search(prepared, schedule="steady")
    run, engine = begun(problem, tmp_path, "one"), OutOfOrder(problem, 6, 0)
    waiting: list[int] = []
    evaluate = engine.iter_outcomes

    def watched(feed: Callable[[], None] = submit_nothing) -> Iterator[Outcome]:
        for outcome in evaluate(feed):
            waiting.append(len(engine.queue))
            yield outcome

    engine.iter_outcomes = watched  # type: ignore[method-assign]
    gone_through(run, problem, engine)
    searching = waiting[1 : EVALUATIONS - 4]  # after the dense network, until there is no more to ask for
    assert set(searching) == {5}, "one came back, the five others are out: the sixth is asked for at once"


def test_final_fine_tunes_are_all_given_out_at_once(tmp_path: Path) -> None:
    tree = TREE | {"search": {"evaluations": 14}, "finals": {"picks": 2, "seeds": 2, "tuning": {"epochs": 0.1}}}
    tree["ladder"] = {"rungs": []}
    problem = build_problem(parse_config(tree, "test"), ignore_event)
    run, engine = begun(problem, tmp_path, "one"), OutOfOrder(problem, 4, 0)
    before_each: list[int] = []
    evaluate = engine.evaluator.evaluate

    class Watched:
        def evaluate(self, asked: Request) -> Outcome:
            if asked.fidelity == "final":
                before_each.append(sum(item.fidelity == "final" for item in engine.queue))
            return evaluate(asked)

    engine.evaluator = Watched()  # type: ignore[assignment]
    gone_through(run, problem, engine)
    assert len(before_each) >= 4
    assert before_each == list(range(len(before_each)))[::-1], "one waited for another"
    assert len(run.open_store(read_only=True).read_finals()) == len(before_each)


def test_a_steady_search_goes_on_with_more_evaluations(config_file: Path, tmp_path: Path, capsys: Any) -> None:
    words = ["--runs", str(tmp_path), "--set", "search.schedule=steady"]
    main(["search", str(config_file), "--name", "long", "--set", "search.evaluations=34", *words])
    main(["search", str(config_file), "--name", "short", "--set", "search.evaluations=12", *words])
    main(["resume", "short", "--runs", str(tmp_path), "--set", "search.evaluations=34"])
    assert journal(open_run(tmp_path, "short")) == journal(open_run(tmp_path, "long"))


@pytest.mark.parametrize("optimizer", ["cma", pytest.param("nsga2", marks=pytest.mark.slow)])
def test_where_the_same_questions_are_not_asked_again_the_search_goes_on_from_what_was_judged(
    optimizer: str, prepared: Problem, tmp_path: Path
) -> None:
    problem = with_search(prepared, schedule="steady", optimizer=optimizer)
    run = begun(problem, tmp_path, "one")
    with pytest.raises(Stopped):
        gone_through(run, problem, OutOfOrder(problem, 2, 0, 30))
    before = journal(run)
    # the optimizer draws otherwise from here on, as on a machine that rounds otherwise
    other = dataclasses.replace(problem, config=problem.config.model_copy(update={"seed": 1}))
    said = gone_through(run, other, LocalEngine(problem.evaluator))
    assert any("the search continues from the stored results" in text for text in said)
    rows = journal(run)
    assert set(before) <= set(rows) and max(row[0] for row in rows) == EVALUATIONS
    assert EVALUATIONS - 2 <= len({row[1] for row in rows}) == len(rows)
    assert not any(
        "goes on from" in text
        for text in gone_through(begun(other, tmp_path, "two"), other, LocalEngine(problem.evaluator))
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_outcomes_that_are_ready_together_are_stored_in_one_transaction(
    schedule: str, prepared: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = with_search(prepared, schedule=schedule)
    run, sizes, add_all = begun(problem, tmp_path, "one"), list[int](), Store.add_all

    def add_and_count(store: Store, rows: Any, *more: Any) -> list[bool]:
        sizes.append(len(rows))
        return add_all(store, rows, *more)

    monkeypatch.setattr(Store, "add_all", add_and_count)
    gone_through(run, problem, OutOfOrder(problem, 6, 0, together=5))
    assert [row[0] for row in journal(run)] == list(range(1, EVALUATIONS + 1))
    assert sum(sizes) == EVALUATIONS + 1 and sizes[:2] == [1, 5], "the dense network, then five together"


def test_what_has_arrived_is_stored_when_a_search_is_stopped(prepared: Problem, tmp_path: Path) -> None:
    for schedule in SCHEDULES:
        problem = with_search(prepared, schedule=schedule)
        run = begun(problem, tmp_path, schedule)
        with pytest.raises(Stopped):  # three of the second five have arrived
            gone_through(run, problem, OutOfOrder(problem, 6, 0, lasts=1 + 5 + 3, together=5))
        assert len(journal(run)) == 8


DYING = """
import os, signal, sys
from importlib import import_module
from pathlib import Path

from blendsearch.pipeline.problem.persistence import restore
from blendsearch.runs.run import open_run

folder, tests, place, left = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
sys.path[:0] = [tests, str(Path(tests).with_name("helpers"))]
from test_schedules import OutOfOrder, gone_through

module, names = place.split(":")
*owners, name = names.split(".")
owner = import_module(module)
for inner in owners:
    owner = getattr(owner, inner)
function = getattr(owner, name)

def call_or_die(*arguments):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return function(*arguments)

setattr(owner, name, call_or_die)
run = open_run(folder, "one")
problem = restore(run)
gone_through(run, problem, OutOfOrder(problem, 6, 0, together=5))
"""


@pytest.mark.parametrize(
    ("schedule", "place", "call", "stored"),
    [
        ("steady", "blendsearch.runs.store:Store._insert", 8, 5),
        ("steady", "blendsearch.pipeline.steady:CandidateTracker.tell", 8, 10),
        ("generational", "blendsearch.pipeline.generational:report_evaluation", 7, 8),
    ],
)
def test_a_search_killed_while_it_stores_several_outcomes_has_all_or_none_of_them(
    schedule: str, place: str, call: int, stored: int, prepared: Problem, tmp_path: Path
) -> None:
    problem = with_search(prepared, schedule=schedule)
    run = begun(problem, tmp_path, "one")
    words = [sys.executable, "-c", DYING, str(tmp_path), str(Path(__file__).parent), place, str(call)]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    before = journal(run)
    assert len(before) == stored
    engine = OutOfOrder(problem, 6, 1, together=5)
    gone_through(run, problem, engine)
    assert set(before) <= set(journal(run)) and not {f"{row[1]} val" for row in before} & set(engine.asked)
    assert [row[0] for row in journal(run)] == list(range(1, EVALUATIONS + 1))


def test_a_checkpoint_within_a_group_of_outcomes_counts_what_the_optimizer_knows(
    prepared: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steady, "CHECKPOINT_INTERVAL", 8)
    problem = with_search(prepared, schedule="steady", optimizer="cma")
    run = begun(problem, tmp_path / "with", "one")
    with pytest.raises(Stopped):
        gone_through(run, problem, OutOfOrder(problem, 6, 0, 30, together=5))
    assert list(run.checkpoints.iterdir())
    shutil.copytree(tmp_path / "with", tmp_path / "without")
    other = open_run(tmp_path / "without", "one")
    shutil.rmtree(other.checkpoints)
    for again in (run, other):  # one from the checkpoint, one from the whole journal
        gone_through(again, problem, LocalEngine(problem.evaluator))
    assert journal(run) == journal(other) and len(journal(run)) == EVALUATIONS


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_on_ray(schedule: str, quick: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "config.yaml"
    quick["search"]["schedule"] = schedule
    path.write_text(yaml.safe_dump(quick | {"engine": {"threads": 1, "workers": 2}}))
    main(["search", str(path), "--runs", str(tmp_path), "--name", "one", "--ray", "local"])
    rows = journal(open_run(tmp_path, "one"))
    assert [row[0] for row in rows] == list(range(1, 31)) and len({row[1] for row in rows}) == 30
