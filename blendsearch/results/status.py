"""Progress of a search, read from its run directory."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from blendsearch.results.ladder_summary import read_ladder
from blendsearch.results.records import BestNetwork, Pace, RunStatus
from blendsearch.results.summary import has_accuracy
from blendsearch.runs.origin import DENSE
from blendsearch.runs.pareto import select_evaluated
from blendsearch.runs.records import Completion, Evaluation
from blendsearch.runs.run import Run
from blendsearch.runs.worker_logs import read_logs

PACE_WINDOW = 60
"""Number of last evaluations from which the pace is computed."""


def read_status(run: Run) -> RunStatus:
    """Read state, counts, pace and the best network so far."""
    with run.open_store(read_only=True) as store:
        rows = [row for row in store.read_bare_evaluations() if row.origin != DENSE]
        generations, finals, tests = store.read_generations(), len(store.read_finals()), len(store.read_tests())
        completions, ladder = store.read_completions(), read_ladder(run, store)
    wall = sum(item["wall"] for item in generations)
    return RunStatus(
        run=run.name,
        state=get_state(run),
        evaluations=len(rows),
        asked=run.config.search.evaluations,
        failed=sum(bool(row.failure) for row in rows),
        generations=len(generations),
        fine_tuned=finals,
        tested=tests,
        schedule=run.config.search.schedule,
        retried=sum(bool(line.get("again")) for line in read_logs(run.path / "logs", containing='"again"')),
        **vars(estimate_pace(run, {row.id: row.seconds for row in rows}, completions, wall)),
        quiet=time.time() - completions[-1].at if completions else None,
        best=_describe_best(run, rows),
        ladder=ladder,
    )


def get_state(run: Run) -> str:
    """Return ``running``, ``finished`` or ``stopped``."""
    return "running" if run.running else "finished" if run.finished else "stopped"


def estimate_pace(run: Run, seconds: Mapping[int, float], completions: Sequence[Completion], wall: float) -> Pace:
    """Estimate the speed of a search.

    `seconds` are the durations of all evaluations of pruned networks by id, `completions` at least the last ones, and
    `wall` the seconds that the search has taken.
    """
    pace = _measure_speed(run, seconds, completions)
    if not pace.per_minute or run.finished:
        return pace
    left = 60 * max(0, run.config.search.evaluations - len(seconds)) / pace.per_minute
    if run.config.search.seconds is not None:
        left = min(left, max(0.0, run.config.search.seconds - wall))
    return replace(pace, seconds_left=left)


def _describe_best(run: Run, rows: Sequence[Evaluation]) -> BestNetwork | None:
    best = min(select_evaluated(rows), key=lambda row: (row.loss, row.id), default=None)
    if best is None or best.loss is None or best.error is None:
        return None
    return BestNetwork(
        id=best.id,
        origin=best.origin,
        val_loss=best.loss,
        val_accuracy=1 - best.error if has_accuracy(run) else None,
        macs_ratio=best.macs / run.structure["dense"]["macs"],
    )


def _measure_speed(run: Run, seconds: Mapping[int, float], completions: Sequence[Completion]) -> Pace:
    """Measure evaluations per minute and the utilisation of the workers since the search was last started."""
    noted = run.read_engine_facts(expected=bool(completions))
    workers, started = noted.get("workers"), float(noted.get("started", 0.0))
    # results that a fork took over have no duration, and do not count
    since = [item for item in completions if item.at >= started and seconds.get(item.id, 0.0) > 0]
    recent = since[-PACE_WINDOW:]
    if not recent:
        return Pace(workers=workers)
    spent = sum(seconds[item.id] for item in recent)
    pace = Pace(workers=workers, seconds_each=spent / len(recent))
    # the window begins with the completion before it; without one, with the earliest start of its first evaluation
    begun = since[-PACE_WINDOW - 1].at if len(since) > PACE_WINDOW else recent[0].at - seconds[recent[0].id]
    wall = recent[-1].at - begun
    if wall <= 0:
        return pace
    utilisation = min(1.0, spent / (wall * workers)) if workers else None
    return replace(pace, per_minute=60 * len(recent) / wall, utilisation=utilisation)
