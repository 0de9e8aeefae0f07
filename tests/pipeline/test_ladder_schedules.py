"""The ladder in both schedules: interrupted, with several workers, and with trainings that fail."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_files import journal

from blendsearch.engine.base import submit_nothing
from blendsearch.engine.local import LocalEngine
from blendsearch.events import Event, ignore_event
from blendsearch.fitness.evaluator import Outcome, Request
from blendsearch.pipeline import generational
from blendsearch.pipeline.ladder_rule import RungTraining, compute_charge
from blendsearch.pipeline.loop import attach_training_store, search
from blendsearch.pipeline.optimizers.base import CandidateResult
from blendsearch.pipeline.problem.builder import build_problem
from blendsearch.pipeline.problem.persistence import record
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.runs.config.ladder_plan import EPSILON, make_plan
from blendsearch.runs.config.loading import parse_config
from blendsearch.runs.records import RungResult
from blendsearch.runs.run import Run

SCHEDULES = ["generational", "steady"]
EVALUATIONS = 24
TREE: dict[str, Any] = {
    "model": {"factory": "digits_net", "arguments": {"width": 4}, "train": {"epochs": 2, "rate": 0.1}},
    "data": {"dataset": "digits", "val_size": 0.3, "train_limit": 256},
    "criteria": {"pool": ["l1", "bn_gamma"], "images": 64},
    "budget": {"macs": 0.5, "round_to": 1},
    "fitness": {"recalibration_images": 64, "device": "cpu", "repair": "none"},
    "search": {"evaluations": EVALUATIONS, "population": 8},
    "finals": {"picks": 1, "tuning": {"epochs": 2, "batch_size": 32}, "probe": {"rates": [0.02, 0.1], "epochs": 0.25}},
    "ladder": {"rungs": [0.1, 0.4], "cost": 4.5},
    "engine": {"threads": 1},
}


class Stopped(Exception):
    """The searching process is gone."""


class Shuffled(LocalEngine):
    """An engine whose outcomes come back in a random order; it stops for good after `lasts` of them.

    Trainings of cuts whose digest begins with a character of `failing` fail.
    """

    def __init__(self, problem: Problem, workers: int, seed: int, lasts: int = 10**9, failing: str = "") -> None:
        super().__init__(problem.evaluator)
        self.workers, self.lasts, self.failing = workers, lasts, failing  # type: ignore[misc]
        self.rng, self.trained = np.random.default_rng(seed), list[tuple[str, float]]()

    def iter_outcomes(self, feed: Callable[[], None] = submit_nothing) -> Iterator[Outcome]:
        while True:
            feed()
            if not self._queue:
                return
            if not self.lasts:
                raise Stopped
            self.lasts -= 1
            place = int(self.rng.integers(min(self.workers, len(self._queue))))
            asked = self._queue[place]
            del self._queue[place]
            yield self.run(asked)

    def run(self, asked: Request) -> Outcome:
        if asked.fidelity != "final":
            return self._evaluate(asked)
        self.trained.append((asked.digest, asked.stop))
        if asked.digest[:1] in self.failing:
            return Outcome(asked.digest, np.nan, np.nan, 0.0, "it was to fail", asked.seed)
        return self._evaluate(asked)


@pytest.fixture(scope="module")
def prepared() -> Problem:
    return build_problem(parse_config(TREE, "test"), ignore_event)


def use_schedule(problem: Problem, schedule: str) -> Problem:
    config = problem.config
    changed = config.model_copy(update={"search": config.search.model_copy(update={"schedule": schedule})})
    return dataclasses.replace(problem, config=changed)


def run_through(run: Run, problem: Problem, engine: LocalEngine) -> list[Event]:
    """Search `run` to the end; return its events."""
    events: list[Event] = []
    with run.lock():
        search(run, attach_training_store(run, problem, engine, ignore_event), engine, events.append)
    return events


def begin(problem: Problem, folder: Path, name: str) -> Run:
    return record(problem, folder, name, ["test"])


def read_trainings(run: Run) -> tuple[list[RungResult], list[Any]]:
    """Read the results of rungs and finals, without their durations."""
    with run.open_store(read_only=True) as store:
        rungs = sorted(item._replace(seconds=0.0) for item in store.read_rungs())
        return rungs, [item._replace(seconds=0.0) for item in store.read_finals()]


STOPS = [(9, 4, 2), (12, 1), (15, 11, 3, 3), (44, 1)]
"""Numbers of outcomes after which a search stops, one after another."""


@pytest.mark.parametrize(
    ("schedule", "all_stops"),
    [
        *(("generational", STOPS[2:]), ("steady", STOPS[:2])),
        *(pytest.param(schedule, STOPS, marks=pytest.mark.slow) for schedule in SCHEDULES),
    ],
)
def test_a_ladder_stopped_anywhere_ends_as_the_undisturbed_one(
    schedule: str, all_stops: list[tuple[int, ...]], prepared: Problem, tmp_path: Path
) -> None:
    problem = use_schedule(prepared, schedule)
    whole = begin(problem, tmp_path, "whole")
    run_through(whole, problem, LocalEngine(problem.evaluator))
    rungs, finals = read_trainings(whole)
    assert {item.rung for item in rungs} == {1, 2, 3} and len(finals) == 3
    for stops in all_stops:
        run = begin(problem, tmp_path, f"stopped-{stops[0]}")
        for lasts in stops:
            with pytest.raises(Stopped):
                run_through(run, problem, Shuffled(problem, 1, 0, lasts))
        run_through(run, problem, LocalEngine(problem.evaluator))
        assert journal(run) == journal(whole)
        assert read_trainings(run) == (rungs, finals)
        assert not (run.path / "training").exists()


@pytest.mark.parametrize("failing", [pytest.param("", marks=pytest.mark.slow), "0123"])
def test_a_generational_ladder_is_the_same_with_any_workers(failing: str, prepared: Problem, tmp_path: Path) -> None:
    runs = []
    for workers, stops in ((1, ()), (4, ()), (3, (20, 5))):
        run = begin(prepared, tmp_path, f"workers-{workers}")
        for lasts in stops:
            with pytest.raises(Stopped):
                run_through(run, prepared, Shuffled(prepared, workers, 1, lasts, failing))
        run_through(run, prepared, Shuffled(prepared, workers, 2, failing=failing))
        runs.append(run)
    assert journal(runs[0]) == journal(runs[1]) == journal(runs[2])
    assert read_trainings(runs[0]) == read_trainings(runs[1]) == read_trainings(runs[2])
    assert any(item.failure for item in read_trainings(runs[0])[0]) == bool(failing)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_failed_trainings_are_replaced_within_the_cost(schedule: str, prepared: Problem, tmp_path: Path) -> None:
    problem = use_schedule(prepared, schedule)
    run = begin(problem, tmp_path, "one")
    events = run_through(run, problem, Shuffled(problem, 3, 0, failing="01234"))
    warnings = [getattr(event, "text", "") for event in events]
    rungs, finals = read_trainings(run)
    failed = {item.digest for item in rungs if item.failure}
    assert failed and all(any(digest[:8] in text for text in warnings) for digest in failed)
    assert all(digest[0] in "01234" for digest in failed) and failed.isdisjoint(item.digest for item in finals)
    plan = make_plan(problem.config.ladder, 1)
    starts = {item.digest: 0 for item in rungs}
    trained = []
    for item in sorted(rungs, key=lambda item: item.rung):
        trained.append(RungTraining(item.digest, starts[item.digest], item.rung))
        starts[item.digest] = item.rung
    assert compute_charge(plan, trained) <= plan.cost + EPSILON
    assert len(finals) == plan.sizes[-1]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_training_of_a_rung_is_repeated(schedule: str, prepared: Problem, tmp_path: Path) -> None:
    problem = use_schedule(prepared, schedule)
    engine = Shuffled(problem, 4, 5)
    run_through(begin(problem, tmp_path, "one"), problem, engine)
    assert max(Counter(engine.trained).values()) == 1


def test_the_optimizer_learns_ranks(prepared: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranked: list[list[CandidateResult]] = []
    make = generational.make_search_optimizer

    def make_watched(problem: Problem) -> Any:
        optimizer = make(problem)
        tell = optimizer.tell

        def watch(results: Any) -> None:
            ranked.append(list(results))
            tell(results)

        optimizer.tell = watch  # type: ignore[method-assign]
        return optimizer

    monkeypatch.setattr(generational, "make_search_optimizer", make_watched)
    run_through(begin(prepared, tmp_path, "one"), prepared, LocalEngine(prepared.evaluator))
    assert all(results == sorted(results, key=lambda item: item.rank) for results in ranked)
    assert all(any(item.rung for item in results) for results in ranked)
    for item in (item for results in ranked for item in results):
        assert (item.rung_loss is None) == (item.rung == 0)
