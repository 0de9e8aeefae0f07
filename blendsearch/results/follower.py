"""A run followed while it is searched: what is new since it was last looked at, small enough to be drawn at once."""

import math
from collections.abc import Mapping
from threading import Lock
from typing import Any

from blendsearch.results.costs import make_ranged_cost_reader
from blendsearch.results.formatting import format_budget
from blendsearch.results.history import BASELINE_KINDS, choose_cost_axis
from blendsearch.results.status import PACE_WINDOW, estimate_pace, get_state
from blendsearch.results.summary import has_accuracy, has_budget_range
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

REORDER_WINDOW = 1000
"""An id counts the order of asking, and workers answer in another: this many ids back are looked at again."""


class Follower:
    """Looks into a run directory again and again, cheaply; never writes there."""

    def __init__(self, run: Run, after: int = 0) -> None:
        """The first `news` leaves out evaluations that a reader who knows ids up to `after` has for certain."""
        self._lock, self._closed = Lock(), False
        self._run = run
        self._cost, self._cost_share = choose_cost_axis(run)
        self._ranged_costs = make_ranged_cost_reader(run)
        self._needs_cuts = any(name not in ("macs", "params") for name in run.config.budget.get_spans())
        self._after = after
        self._version: int | None = None
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
        self._reported: dict[str, Any] = {}
        self._store = run.open_store(read_only=True)

    def close(self) -> None:
        """Waits for a look that another thread is taking: SQLite does not survive being closed under it."""
        with self._lock:
            self._closed = True
            self._store.close()

    def poll(self) -> dict[str, Any]:
        """What has changed, part by part; empty when nothing has. Ratios, errors and accuracies are in [0, 1].

        ``head``: what the run is; where it tells no `errors`, those in the other parts are stand-ins. ``rows``: new
        evaluations as columns `id`, `cost`, `params`, `error`, `loss`, `generation` (numbers None for a failed one),
        and by id `origins` of baselines and `failures`. ``dense``: the dense network. ``front``: its ids, `best` and
        `knee` among them. ``baselines``: the best of every kind. ``generations``: hypervolume and best loss after so
        many `evaluations`. ``tests``: test accuracy by id.
        ``state``: counts and pace, see `inspect.status`. Nothing is new once it is closed.
        """
        with self._lock:
            return {} if self._closed else self._poll()

    def _poll(self) -> dict[str, Any]:
        news: dict[str, Any] = {}
        self._reload_run()
        version = self._store.read_version()
        if version != self._version:
            self._version = version
            news |= self._read_evaluations() | self._read_milestones()
        for part, facts in (("head", self._describe_run()), ("state", self._describe_state())):
            if self._reported.get(part) != facts:
                self._reported[part] = news[part] = facts
        return news

    def _reload_run(self) -> None:
        """Open the run again where its config was changed on resuming."""
        changed = (self._run.path / "run.json").stat().st_mtime
        if changed != self._config_mtime:
            self._run, self._config_mtime = open_run(self._run.path.parent, self._run.name), changed

    def _read_evaluations(self) -> dict[str, Any]:
        floor = max(self._digests, default=0) - REORDER_WINDOW
        new = [
            row
            for row in self._store.read_bare_evaluations(floor, cuts=self._needs_cuts)
            if row.id not in self._digests
        ]
        if not new:
            return {}
        self._digests |= {row.id: row.digest for row in new}
        self._seconds |= {row.id: row.seconds for row in new if row.origin != DENSE}
        self._failed += sum(bool(row.failure) for row in new)
        found: dict[str, Any] = {}
        for row in new:
            if row.origin == DENSE:
                found["dense"] = {"id": row.id, "error": row.error, "loss": row.loss}
        judged = [row for row in select_evaluated(new) if row.loss is not None and row.error is not None]
        self._front = select_front([*self._front, *judged], self._ranged_costs)
        self._baselines = select_best_baselines(
            [*self._baselines, *(row for row in judged if Origin.parse(row.origin).is_baseline)]
        )
        found |= self._describe_front()
        pruned = [row for row in new if row.origin != DENSE and row.id > self._after - REORDER_WINDOW]
        return found | ({"rows": self._make_columns(pruned)} if pruned else {})

    def _describe_front(self) -> dict[str, Any]:
        """The front and the baselines, as far as there are any."""
        if not self._front:
            return {}
        self._best = min(self._front, key=lambda row: (row.loss, row.macs, row.id))
        on_front = {"ids": [row.id for row in self._front], "best": self._best.id}
        on_front["knee"] = find_knee(self._front, self._ranged_costs).id if has_budget_range(self._run) else None
        return {"front": on_front, "baselines": self._list_baselines()}

    def _make_columns(self, rows: list[Evaluation]) -> dict[str, Any]:
        dense = self._run.structure["dense"]
        return {
            "id": [row.id for row in rows],
            "cost": [round(self._cost_share(row), 5) for row in rows],
            "params": [round(row.params / dense["params"], 5) for row in rows],
            "error": [_round_significant(None if row.failure else row.error) for row in rows],
            "loss": [_round_significant(None if row.failure else row.loss) for row in rows],
            "generation": [row.generation for row in rows],
            "origins": {row.id: row.origin for row in rows if row.origin != EVOLVED},
            "failures": {row.id: row.failure for row in rows if row.failure},
        }

    def _list_baselines(self) -> list[dict[str, Any]]:
        """The best baselines; `shape` numbers their kinds as a reader meets them."""
        found = []
        for row in self._baselines:
            for kind in Origin.parse(row.origin).families:
                shape = BASELINE_KINDS.index(kind) if kind in BASELINE_KINDS else len(BASELINE_KINDS) - 1
                found.append({"id": row.id, "kind": kind, "shape": shape})
        return found

    def _read_milestones(self) -> dict[str, Any]:
        """What changes once a generation, or when the search is over."""
        found: dict[str, Any] = {}
        self._completions = self._store.read_completions(3 * PACE_WINDOW)
        known = self._store.read_generations()
        if len(known) != len(self._generations):
            self._generations, done = known, 0
            found["generations"] = []
            for item in known:
                done += item["evaluations"]
                facts = {name: item["summary"].get(name) for name in ("hypervolume", "best_loss")}
                found["generations"].append({"generation": item["generation"], "evaluations": done, **facts})
        again = self._store.read_promotions()
        if len(again) != self._reevaluated_count:
            self._reevaluated_count = len(again)
            valid = select_highest_fidelity(self._store.read_bare_evaluations(0, cuts=self._needs_cuts), again)
            self._front, self._baselines = select_front(valid, self._ranged_costs), select_best_baselines(valid)
            found |= self._describe_front()
        tested = {subject: 1 - result.error for subject, result in self._store.read_tests().items()}
        if tested != self._test_accuracies:
            self._test_accuracies = tested
            digests = {digest: id for id, digest in self._digests.items()}
            found["tests"] = {digests[item]: value for item, value in tested.items() if item in digests}
            if "dense" in tested:
                found["tests"][0] = tested["dense"]
        return found

    def _describe_run(self) -> dict[str, Any]:
        config = self._run.config
        return {
            "run": self._run.name,
            "title": config.model.title,
            "data": config.data.dataset,
            "budget": format_budget(self._run),
            "spans": has_budget_range(self._run),
            "errors": has_accuracy(self._run),
            "cost": self._cost,
            "method": config.method,
            "fidelity": config.fitness.fidelity,
            "seed": config.seed,
            "dense": self._run.structure["dense"],
            "splits": self._run.structure["splits"],
        }

    def _describe_state(self) -> dict[str, Any]:
        wall = sum(item["wall"] for item in self._generations)
        best: Mapping[str, Any] | None = None
        if self._best is not None:
            best = {
                "id": self._best.id,
                "loss": _round_significant(self._best.loss),
                "error": _round_significant(self._best.error),
            }
        return {
            "state": get_state(self._run),
            "evaluations": len(self._seconds),
            "asked": self._run.config.search.evaluations,
            "failed": self._failed,
            **estimate_pace(self._run, self._seconds, self._completions, wall).to_dict(),
            "best": best,
        }


def _round_significant(value: float | None) -> float | None:
    """Six digits of a finite number; JSON has no others, and no picture shows more."""
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None
