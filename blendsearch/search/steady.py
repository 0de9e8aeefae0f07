"""The steady schedule, on one screen: whoever is free is asked, whatever comes back is told; nobody waits for anybody.

The order in which evaluations come back is part of the result here, so the store writes it down: which came back, and
how many had been asked for by then. With one seed that makes every question and answer again, one by one: after a crash
the optimiser stands exactly where it stood when the last evaluation was stored, nothing stored is evaluated again, and
what was out is asked for again under the same numbers. From there on the order is once more what the workers make of
it. With one worker there is only one order, and a resumed search ends bit for bit as the undisturbed one does.
"""

import sys
import time
from collections import deque

from blendsearch.engine.engine import Engine
from blendsearch.errors import RunError
from blendsearch.fitness.evaluation import request
from blendsearch.runs.directory import Run
from blendsearch.runs.store import Store
from blendsearch.search.judging import (
    conclude,
    facts_of,
    judge_dense,
    judged_of,
    row_of,
    warn_of_baselines,
    warn_of_exhaustion,
)
from blendsearch.search.optimiser import Candidate, Judged, Optimiser
from blendsearch.search.optimisers import optimiser_of, seeds_of
from blendsearch.search.setting import Report, Setting
from blendsearch.search.stopping import reason_to_stop


def steadily(run: Run, setting: Setting, engine: Engine, store: Store, report: Report) -> None:
    """Ask for one candidate whenever a worker is free, and tell each outcome as it comes."""
    config, fidelity, seed = setting.config.search, setting.config.fitness.fidelity, setting.config.seed
    judge_dense(setting, engine, store, report)
    asking = Asking(setting, report)
    replay(asking, setting, store, run.name)
    stood, begun = asking.told, time.perf_counter()
    if len(store.generations()) < stood // config.population:  # stopped between an evaluation and the record of all
        conclude(stood // config.population, 0.0, setting, store, report)
    reason = reason_to_stop(config, store.generations())

    def feed() -> None:
        while reason is None and asking.asked < config.evaluations and len(asking.out) < engine.workers:
            candidate = asking.next()
            if candidate is None:
                break
            engine.submit(request(candidate.cut, fidelity, seed))

    for _, candidate in asking.out.values():
        engine.submit(request(candidate.cut, fidelity, seed))
    for outcome in engine.completed(feed):
        number, candidate = asking.out[outcome.digest]
        described = asking.optimiser.described(candidate.genome)
        asked = request(candidate.cut, fidelity, seed)
        row = row_of(number, candidate, described, asking.told // config.population, asked, outcome, setting)
        store.add(row, asking.asked)
        report("evaluated", facts_of(row, setting))
        asking.tell(row.digest, judged_of(candidate, row, setting))
        if asking.told % config.population == 0:
            conclude(asking.told // config.population, time.perf_counter() - begun, setting, store, report)
            begun = time.perf_counter()
            reason = reason or reason_to_stop(config, store.generations())
    if asking.told % config.population and asking.told > stood:
        conclude(asking.told // config.population + 1, time.perf_counter() - begun, setting, store, report)
    if reason is not None:
        report("stopped", {"reason": reason})


class Asking:
    """An optimiser, what it was asked, and what of that is still out: by digest, with the number it was asked under."""

    def __init__(self, setting: Setting, report: Report) -> None:
        self.setting, self.report = setting, report
        self.optimiser: Optimiser = optimiser_of(setting)
        seeds = seeds_of(setting)
        warn_of_baselines(len(seeds), setting.config.search.evaluations, report)
        # however long the search is to be: a longer one begins with the same
        self._first = deque(self.optimiser.first(seeds, sys.maxsize))
        self.asked, self.told = 0, 0
        self.out: dict[str, tuple[int, Candidate]] = {}
        self._known: set[str] = set()
        self._exhausted = False

    def next(self) -> Candidate | None:
        """The next candidate, out from now on; None for good once the space is used up."""
        if self._exhausted:
            return None
        candidate = self._first.popleft() if self._first else self.optimiser.ask_one(self._known)
        if candidate is None:
            self._exhausted = True
            warn_of_exhaustion(self.setting, self.report)
            return None
        self.asked += 1
        self.out[candidate.digest] = (self.asked, candidate)
        self._known.add(candidate.digest)
        return candidate

    def tell(self, digest: str, judged: Judged | None) -> None:
        """That a candidate has come back."""
        del self.out[digest]
        self.told += 1
        self.optimiser.tell_one(digest, judged)


def replay(asking: Asking, setting: Setting, store: Store, name: str) -> None:
    """Ask and tell as the store says it went, so that `asking` stands where the search was stopped.

    Raises RunError where the questions are not those that were answered.
    """
    rows = {row.id: row for row in store.evaluations()}
    for completion in store.completions():
        row = rows[completion.id]
        if not completion.id:
            continue  # the dense network: nobody asked for it
        while asking.asked < completion.asked and asking.next() is not None:
            pass
        number, candidate = asking.out.get(row.digest, (0, None))
        if candidate is None or number != row.id:
            raise RunError(
                f"run {name!r}: made again from its journal, the search does not ask for network {row.id} as it did: "
                "this code or this machine computes otherwise; go on where it was begun, or fork the run"
            )
        asking.tell(row.digest, judged_of(candidate, row, setting))
