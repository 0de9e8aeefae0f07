"""A run followed while it is searched: what is new since it was last looked at, small enough to be drawn at once."""

import math
from collections.abc import Mapping
from threading import Lock
from typing import Any

from blendsearch.results.costs import spanned_reader
from blendsearch.results.formatting import budget_text
from blendsearch.results.history import ORDER, axis
from blendsearch.results.status import RECENT, pace, state_of
from blendsearch.results.summary import spans, tells_error
from blendsearch.runs.origin import DENSE, EVOLVED, kinds_of
from blendsearch.runs.pareto import best_baselines, dearest, front, judged_networks, knee
from blendsearch.runs.records import Completion, Evaluation
from blendsearch.runs.run import Run, open_run

OUT_OF_ORDER = 1000
"""An id counts the order of asking, and workers answer in another: this many ids back are looked at again."""


class Follower:
    """Looks into a run directory again and again, cheaply; never writes there."""

    def __init__(self, run: Run, after: int = 0) -> None:
        """The first `news` leaves out evaluations that a reader who knows ids up to `after` has for certain."""
        self._looking, self._closed = Lock(), False
        self._run = run
        self._store = run.store(read_only=True)
        self._cost, self._share = axis(run)
        self._costs = spanned_reader(run)
        self._cuts = any(name not in ("macs", "params") for name in run.config.budget.spans())
        self._after = after
        self._version: int | None = None
        self._changed: float | None = None
        self._seen: dict[int, str] = {}
        self._seconds: dict[int, float] = {}
        self._completions: list[Completion] = []
        self._best: Evaluation | None = None
        self._front: list[Evaluation] = []
        self._baselines: list[Evaluation] = []
        self._failed = 0
        self._generations: list[dict[str, Any]] = []
        self._tested: dict[str, float] = {}
        self._rejudged = 0
        self._told: dict[str, Any] = {}

    def close(self) -> None:
        """Waits for a look that another thread is taking: SQLite does not survive being closed under it."""
        with self._looking:
            self._closed = True
            self._store.close()

    def news(self) -> dict[str, Any]:
        """What has changed, part by part; empty when nothing has. Ratios, errors and accuracies are in [0, 1].

        ``head``: what the run is; where it tells no `errors`, those in the other parts are stand-ins. ``rows``: new
        evaluations as columns `id`, `cost`, `params`, `error`, `loss`, `generation` (numbers None for a failed one),
        and by id `origins` of baselines and `failures`. ``dense``: the dense network. ``front``: its ids, `best` and
        `knee` among them. ``baselines``: the best of every kind. ``generations``: hypervolume and best loss after so
        many `evaluations`. ``tests``: test accuracy by id.
        ``state``: counts and pace, see `inspect.status`. Nothing is new once it is closed.
        """
        with self._looking:
            return {} if self._closed else self._news()

    def _news(self) -> dict[str, Any]:
        news: dict[str, Any] = {}
        self._again()
        version = self._store.version()
        if version != self._version:
            self._version = version
            news |= self._rows() | self._ends()
        for part, facts in (("head", self._head()), ("state", self._state())):
            if self._told.get(part) != facts:
                self._told[part] = news[part] = facts
        return news

    def _again(self) -> None:
        """Open the run again where its config was changed on resuming."""
        changed = (self._run.path / "run.json").stat().st_mtime
        if changed != self._changed:
            self._run, self._changed = open_run(self._run.path.parent, self._run.name), changed

    def _rows(self) -> dict[str, Any]:
        floor = max(self._seen, default=0) - OUT_OF_ORDER
        new = [row for row in self._store.bare_evaluations(floor, cuts=self._cuts) if row.id not in self._seen]
        if not new:
            return {}
        self._seen |= {row.id: row.digest for row in new}
        self._seconds |= {row.id: row.seconds for row in new if row.origin != DENSE}
        self._failed += sum(bool(row.failure) for row in new)
        found: dict[str, Any] = {}
        for row in new:
            if row.origin == DENSE:
                found["dense"] = {"id": row.id, "error": row.error, "loss": row.loss}
        judged = [row for row in judged_networks(new) if row.loss is not None and row.error is not None]
        self._front = front([*self._front, *judged], self._costs)
        self._baselines = best_baselines([*self._baselines, *(row for row in judged if kinds_of(row))])
        found |= self._found()
        pruned = [row for row in new if row.origin != DENSE and row.id > self._after - OUT_OF_ORDER]
        return found | ({"rows": self._columns(pruned)} if pruned else {})

    def _found(self) -> dict[str, Any]:
        """The front and the baselines, as far as there are any."""
        if not self._front:
            return {}
        self._best = min(self._front, key=lambda row: (row.loss, row.macs, row.id))
        on_front = {"ids": [row.id for row in self._front], "best": self._best.id}
        on_front["knee"] = knee(self._front, self._costs).id if spans(self._run) else None
        return {"front": on_front, "baselines": self._kinds()}

    def _columns(self, rows: list[Evaluation]) -> dict[str, Any]:
        dense = self._run.structure["dense"]
        return {
            "id": [row.id for row in rows],
            "cost": [round(self._share(row), 5) for row in rows],
            "params": [round(row.params / dense["params"], 5) for row in rows],
            "error": [_short(None if row.failure else row.error) for row in rows],
            "loss": [_short(None if row.failure else row.loss) for row in rows],
            "generation": [row.generation for row in rows],
            "origins": {row.id: row.origin for row in rows if row.origin != EVOLVED},
            "failures": {row.id: row.failure for row in rows if row.failure},
        }

    def _kinds(self) -> list[dict[str, Any]]:
        """The best baselines; `shape` numbers their kinds as a reader meets them."""
        found = []
        for row in self._baselines:
            for kind in dict.fromkeys(kind.partition(" at ")[0] for kind in kinds_of(row)):
                shape = ORDER.index(kind) if kind in ORDER else len(ORDER) - 1
                found.append({"id": row.id, "kind": kind, "shape": shape})
        return found

    def _ends(self) -> dict[str, Any]:
        """What changes once a generation, or when the search is over."""
        found: dict[str, Any] = {}
        self._completions = self._store.completions(3 * RECENT)
        known = self._store.generations()
        if len(known) != len(self._generations):
            self._generations, done = known, 0
            found["generations"] = []
            for item in known:
                done += item["evaluations"]
                facts = {name: item["summary"].get(name) for name in ("hypervolume", "best_loss")}
                found["generations"].append({"generation": item["generation"], "evaluations": done, **facts})
        again = self._store.rejudged()
        if len(again) != self._rejudged:
            self._rejudged = len(again)
            valid = dearest(self._store.bare_evaluations(0, cuts=self._cuts), again)
            self._front, self._baselines = front(valid, self._costs), best_baselines(valid)
            found |= self._found()
        tested = {subject: 1 - result.error for subject, result in self._store.tests().items()}
        if tested != self._tested:
            self._tested = tested
            digests = {digest: id for id, digest in self._seen.items()}
            found["tests"] = {digests[item]: value for item, value in tested.items() if item in digests}
            if "dense" in tested:
                found["tests"][0] = tested["dense"]
        return found

    def _head(self) -> dict[str, Any]:
        config = self._run.config
        return {
            "run": self._run.name,
            "title": config.model.title,
            "data": config.data.dataset,
            "budget": budget_text(self._run),
            "spans": spans(self._run),
            "errors": tells_error(self._run),
            "cost": self._cost,
            "method": config.method,
            "fidelity": config.fitness.fidelity,
            "seed": config.seed,
            "dense": self._run.structure["dense"],
            "splits": self._run.structure["splits"],
        }

    def _state(self) -> dict[str, Any]:
        best: Mapping[str, Any] | None = None
        if self._best is not None:
            best = {"id": self._best.id, "loss": _short(self._best.loss), "error": _short(self._best.error)}
        return {
            "state": state_of(self._run),
            "evaluations": len(self._seconds),
            "asked": self._run.config.search.evaluations,
            "failed": self._failed,
            **pace(self._run, self._seconds, self._completions, self._generations),
            "best": best,
        }


def _short(value: float | None) -> float | None:
    """Six digits of a finite number; JSON has no others, and no picture shows more."""
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None
