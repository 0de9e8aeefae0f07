"""News of a run while it is searched: what has changed since the last poll, in a compact form."""

import math
from dataclasses import replace
from threading import Lock

from blendsearch.results.costs import make_ranged_cost_reader
from blendsearch.results.formatting import format_budget
from blendsearch.results.history import BASELINE_KINDS, choose_cost_axis
from blendsearch.results.listing import Stamp, read_stamp
from blendsearch.results.live_messages import (
    BaselinePoint,
    BestPoint,
    DensePoint,
    FrontPoints,
    GenerationPoint,
    RowColumns,
    RunHeader,
    RunNews,
    RunState,
)
from blendsearch.results.news_log import REORDER_WINDOW
from blendsearch.results.status import PACE_WINDOW, estimate_pace, get_state
from blendsearch.results.summary import get_metric, has_accuracy, has_budget_range
from blendsearch.runs.origin import DENSE, EVOLVED, Origin
from blendsearch.runs.pareto import (
    find_knee,
    select_best_baselines,
    select_evaluated,
    select_front,
    select_highest_fidelity,
)
from blendsearch.runs.records import Completion, Evaluation
from blendsearch.runs.run import Run, open_run
from blendsearch.runs.run_facts import GenerationRow

STATE_FILES = ("run.json", "engine.json", "finished.json")
"""Files beside the database from which the state of a run is read."""


class Follower:
    """Reads a run directory repeatedly at low cost; never writes there."""

    def __init__(self, run: Run, after: int = 0) -> None:
        """The first poll leaves out evaluations that a reader with the ids up to `after` certainly has."""
        self._lock, self._closed = Lock(), False
        self._run = run
        self._cost, self._cost_share = choose_cost_axis(run)
        self._ranged_costs = make_ranged_cost_reader(run)
        self._needs_cuts = any(name not in ("macs", "params") for name in run.config.budget.get_spans())
        self._after = after
        self._version: int | None = None
        self._stamps: tuple[Stamp, ...] = ()
        self._was_running = False
        self._config_mtime: float | None = None
        self._digests: dict[int, str] = {}
        self._seconds: dict[int, float] = {}
        self._completions: list[Completion] = []
        self._best: Evaluation | None = None
        self._front: list[Evaluation] = []
        self._baselines: list[Evaluation] = []
        self._failed = 0
        self._generations: list[GenerationRow] = []
        self._test_accuracies: dict[str, float] = {}
        self._reevaluated_count = 0
        self._reported_head: RunHeader | None = None
        self._reported_state: RunState | None = None
        self._store = run.open_store(read_only=True)

    def close(self) -> None:
        """Close the store, after a poll by another thread: SQLite must not be closed under it."""
        with self._lock:
            self._closed = True
            self._store.close()

    def poll(self) -> RunNews:
        """Return what has changed; false when nothing has. A closed follower has no news."""
        with self._lock:
            return RunNews() if self._closed else self._poll()

    def _poll(self) -> RunNews:
        news, version = RunNews(), self._store.read_version()
        if not self._is_outdated(version):
            return news
        self._reload_run()
        if version != self._version:
            self._version = version
            news = self._read_milestones(self._read_evaluations())
        head, state = self._describe_run(), self._describe_state()
        if head != self._reported_head:
            self._reported_head, news = head, replace(news, head=head)
        if state != self._reported_state:
            self._reported_state, news = state, replace(news, state=state)
        return news

    def _is_outdated(self, version: int) -> bool:
        """Check, at the cost of a few system calls, if anything has changed since the last poll."""
        stamps = tuple(read_stamp(self._run.path / name) for name in STATE_FILES)
        running = self._run.running
        if (version, stamps, running) == (self._version, self._stamps, self._was_running):
            return False
        self._stamps, self._was_running = stamps, running
        return True

    def _reload_run(self) -> None:
        """Open the run again where resuming changed its config."""
        changed = (self._run.path / "run.json").stat().st_mtime
        if changed != self._config_mtime:
            self._run, self._config_mtime = open_run(self._run.path.parent, self._run.name), changed

    def _read_evaluations(self) -> RunNews:
        floor = max(self._digests, default=0) - REORDER_WINDOW
        rows = self._store.read_bare_evaluations(floor, cuts=self._needs_cuts)
        new = [row for row in rows if row.id not in self._digests]
        if not new:
            return RunNews()
        self._count(new)
        self._update_front(new)
        dense = next((row for row in new if row.origin == DENSE), None)
        pruned = [row for row in new if row.origin != DENSE and row.id > self._after - REORDER_WINDOW]
        return self._report_front(
            RunNews(
                dense=None if dense is None else DensePoint(id=dense.id, error=dense.error, loss=dense.loss),
                rows=self._make_columns(pruned) if pruned else None,
            )
        )

    def _count(self, new: list[Evaluation]) -> None:
        self._digests |= {row.id: row.digest for row in new}
        self._seconds |= {row.id: row.seconds for row in new if row.origin != DENSE}
        self._failed += sum(bool(row.failure) for row in new)

    def _update_front(self, new: list[Evaluation]) -> None:
        evaluated = [row for row in select_evaluated(new) if row.loss is not None and row.error is not None]
        self._front = select_front([*self._front, *evaluated], self._ranged_costs)
        baselines = [row for row in evaluated if Origin.parse(row.origin).is_baseline]
        self._baselines = select_best_baselines([*self._baselines, *baselines])

    def _report_front(self, news: RunNews) -> RunNews:
        """Add the front and the baselines to `news`, where there are some."""
        if not self._front:
            return news
        self._best = min(self._front, key=lambda row: (row.loss, row.macs, row.id))
        front = FrontPoints(
            ids=tuple(row.id for row in self._front),
            best=self._best.id,
            knee=find_knee(self._front, self._ranged_costs).id if has_budget_range(self._run) else None,
        )
        return replace(news, front=front, baselines=self._list_baselines())

    def _make_columns(self, rows: list[Evaluation]) -> RowColumns:
        """Put evaluations into columns, with no numbers for those that failed."""
        dense = self._run.structure["dense"]
        numbers = [(None, None) if row.failure else (row.error, row.loss) for row in rows]
        return RowColumns(
            id=tuple(row.id for row in rows),
            cost=tuple(round(self._cost_share(row), 5) for row in rows),
            params=tuple(round(row.params / dense["params"], 5) for row in rows),
            error=tuple(_round_significant(error) for error, _ in numbers),
            loss=tuple(_round_significant(loss) for _, loss in numbers),
            generation=tuple(row.generation for row in rows),
            origins={row.id: row.origin for row in rows if row.origin != EVOLVED},
            failures={row.id: row.failure for row in rows if row.failure},
        )

    def _list_baselines(self) -> tuple[BaselinePoint, ...]:
        found = []
        for row in self._baselines:
            for kind in Origin.parse(row.origin).families:
                shape = BASELINE_KINDS.index(kind) if kind in BASELINE_KINDS else len(BASELINE_KINDS) - 1
                found.append(BaselinePoint(id=row.id, kind=kind, shape=shape))
        return tuple(found)

    def _read_milestones(self, news: RunNews) -> RunNews:
        """Add to `news` what changes once a generation, or when the search has finished."""
        self._completions = self._store.read_completions(3 * PACE_WINDOW)
        news = replace(news, generations=self._read_generations())
        return replace(self._report_promotions(news), tests=self._read_tests())

    def _read_generations(self) -> tuple[GenerationPoint, ...] | None:
        known = self._store.read_generations()
        if len(known) == len(self._generations):
            return None
        self._generations, done, found = known, 0, []
        for item in known:
            done += item["evaluations"]
            summary = item["summary"]
            found.append(
                GenerationPoint(
                    generation=item["generation"],
                    evaluations=done,
                    hypervolume=summary.get("hypervolume"),
                    best_loss=summary.get("best_loss"),
                )
            )
        return tuple(found)

    def _report_promotions(self, news: RunNews) -> RunNews:
        again = self._store.read_promotions()
        if len(again) == self._reevaluated_count:
            return news
        self._reevaluated_count = len(again)
        valid = select_highest_fidelity(self._store.read_bare_evaluations(0, cuts=self._needs_cuts), again)
        self._front, self._baselines = select_front(valid, self._ranged_costs), select_best_baselines(valid)
        return self._report_front(news)

    def _read_tests(self) -> dict[int, float] | None:
        tested = {digest: 1 - result.error for digest, result in self._store.read_tests().items()}
        if tested == self._test_accuracies:
            return None
        self._test_accuracies = tested
        ids = {digest: id for id, digest in self._digests.items()}
        found = {ids[digest]: value for digest, value in tested.items() if digest in ids}
        return found | ({0: tested["dense"]} if "dense" in tested else {})

    def _describe_run(self) -> RunHeader:
        config = self._run.config
        return RunHeader(
            run=self._run.name,
            title=config.model.title,
            data=config.data.dataset,
            budget=format_budget(self._run),
            spans=has_budget_range(self._run),
            errors=has_accuracy(self._run),
            metric=get_metric(self._run),
            cost=self._cost,
            method=config.method,
            fidelity=config.fitness.fidelity,
            seed=config.seed,
            dense=self._run.structure["dense"],
            splits=self._run.structure["splits"],
        )

    def _describe_state(self) -> RunState:
        wall = sum(item["wall"] for item in self._generations)
        pace = estimate_pace(self._run, self._seconds, self._completions, wall)
        return RunState(
            state=get_state(self._run),
            evaluations=len(self._seconds),
            asked=self._run.config.search.evaluations,
            failed=self._failed,
            **vars(pace),
            best=self._describe_best(),
        )

    def _describe_best(self) -> BestPoint | None:
        if self._best is None:
            return None
        return BestPoint(
            id=self._best.id,
            loss=_round_significant(self._best.loss),
            error=_round_significant(self._best.error),
        )


def _round_significant(value: float | None) -> float | None:
    """Round a finite number to six digits; None for others, which JSON does not have."""
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None
