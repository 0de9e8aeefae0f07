"""The steady schedule, on one screen: whoever is free is asked, whatever comes back is told; nobody waits for anybody.

The order in which evaluations come back is part of the result here, so the store writes it down: which came back, and
how many had been asked for by then. With one seed that makes every question and answer again, one by one: after a crash
the optimiser stands exactly where it stood when the last evaluation was stored, nothing stored is evaluated again, and
what was out is asked for again under the same numbers. From there on the order is once more what the workers make of
it. With one worker there is only one order, and a resumed search ends bit for bit as the undisturbed one does.

On a machine that rounds otherwise the optimiser may ask otherwise than it did. Then it is told what was judged instead
of what it asks for now, which is said, and the search goes on from there.
"""

import json
import sys
import time
from collections import deque

from blendsearch.engine.base import Engine
from blendsearch.fitness.evaluator import Outcome, request
from blendsearch.pipeline.methods.blended import optimiser_of, seeds_of
from blendsearch.pipeline.optimizers.base import Candidate, Judged, Optimiser
from blendsearch.pipeline.problem.problem import Report, Setting
from blendsearch.pipeline.recording import (
    conclude,
    facts_of,
    judge_dense,
    judged_of,
    kept_row,
    row_of,
    stand_of,
    taken_over,
    warn_of_baselines,
    warn_of_exhaustion,
)
from blendsearch.pipeline.stopping import reason_to_stop
from blendsearch.runs.run import Run
from blendsearch.runs.store import Store
from blendsearch.structure.groups import unpacked


def steadily(run: Run, setting: Setting, engine: Engine, store: Store, report: Report) -> None:
    """Ask for one candidate whenever a worker is free, and tell each outcome as it comes."""
    config, fidelity, seed = setting.config.search, setting.config.fitness.fidelity, setting.config.seed
    judge_dense(setting, engine, store, report)
    asking, known = Asking(setting, store, report), taken_over(store, fidelity)
    replay(asking, setting, store, report)
    stood, begun = asking.told, time.perf_counter()
    if stood:
        report("resumed", stand_of(stood, stood // config.population, setting, store))
    if len(store.generations()) < stood // config.population:  # stopped between an evaluation and the record of all
        conclude(stood // config.population, 0.0, setting, store, report)
    reason = reason_to_stop(config, store.generations())

    def send(candidate: Candidate) -> None:
        if candidate.digest in known:
            came_back(known[candidate.digest])
        else:
            engine.submit(request(candidate.cut, fidelity, seed))

    def feed() -> None:
        while reason is None and asking.asked < config.evaluations and len(asking.out) < engine.workers:
            candidate = asking.next()
            if candidate is None:
                break
            send(candidate)

    def came_back(outcome: Outcome) -> None:
        nonlocal reason, begun
        number, candidate = asking.out[outcome.digest]
        described = asking.optimiser.described(candidate.genome)
        asked = request(candidate.cut, fidelity, seed)
        row = row_of(number, candidate, described, asking.told // config.population, asked, outcome, setting)
        kept_row(row, outcome, store, asking.asked)
        report("evaluated", {**facts_of(row, setting), "busy": engine.busy, "workers": engine.workers})
        asking.tell(row.digest, judged_of(candidate, row, setting))
        if asking.told % config.population == 0:
            conclude(asking.told // config.population, time.perf_counter() - begun, setting, store, report)
            begun = time.perf_counter()
            reason = reason or reason_to_stop(config, store.generations())

    for _, candidate in list(asking.out.values()):
        send(candidate)
    for outcome in engine.completed(feed):
        came_back(outcome)
    if asking.told % config.population and asking.told > stood:
        conclude(asking.told // config.population + 1, time.perf_counter() - begun, setting, store, report)
    if reason is not None:
        report("stopped", {"reason": reason})


class Asking:
    """An optimiser, what it was asked, and what of that is still out: by digest, with the number it was asked under."""

    def __init__(self, setting: Setting, store: Store, report: Report) -> None:
        self.setting, self.report = setting, report
        self.optimiser: Optimiser = optimiser_of(setting)
        seeds = seeds_of(setting, store, self.optimiser)
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

    def replace(self, number: int, candidate: Candidate) -> None:
        """That `candidate` is what was asked for under `number`, not what would be asked for now."""
        self.out = {digest: item for digest, item in self.out.items() if item[0] != number}
        self.out[candidate.digest] = (number, candidate)
        self.asked = max(self.asked, number)
        self._known.add(candidate.digest)

    def forget(self, digests: set[str]) -> None:
        """That these are judged already, under whatever number."""
        self.out = {digest: item for digest, item in self.out.items() if digest not in digests}

    def tell(self, digest: str, judged: Judged | None) -> None:
        """That a candidate has come back."""
        del self.out[digest]
        self.told += 1
        self.optimiser.tell_one(digest, judged)


def replay(asking: Asking, setting: Setting, store: Store, report: Report) -> None:
    """Ask and tell as the store says it went, so that `asking` stands where the search was stopped."""
    rows = {row.id: row for row in store.evaluations()}
    otherwise = 0
    for completion in store.completions():
        row = rows[completion.id]
        if not row.id:
            continue  # the dense network: nobody asked for it
        while asking.asked < completion.asked and asking.next() is not None:
            pass
        if asking.out.get(row.digest, (0,))[0] != row.id:
            otherwise += 1
            cut = unpacked(row.cut, setting.structure.maps.channels)
            genome = asking.optimiser.of_described(json.loads(row.genome))
            asking.replace(row.id, Candidate(genome, cut, row.digest, row.origin))
        _, candidate = asking.out[row.digest]
        asking.tell(row.digest, judged_of(candidate, row, setting))
    if otherwise:
        text = f"{otherwise} networks of the journal are not asked for again here: this machine computes otherwise"
        report("warning", {"text": f"{text}; the search goes on from what was judged"})
        asking.forget({row.digest for row in rows.values()})
