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
from blendsearch.fitness.evaluator import Outcome, make_request
from blendsearch.pipeline.methods.method import make_search_optimizer, make_seeds
from blendsearch.pipeline.optimizers.base import Candidate, CandidateResult, Optimizer
from blendsearch.pipeline.problem.problem import Problem, Reporter
from blendsearch.pipeline.recording import (
    describe_progress,
    describe_row,
    evaluate_dense,
    load_inherited_outcomes,
    make_candidate_result,
    make_row,
    record_generation,
    store_row,
    warn_of_baselines,
    warn_of_exhaustion,
)
from blendsearch.pipeline.stopping import find_stop_reason
from blendsearch.runs.run import Run
from blendsearch.runs.store import Store
from blendsearch.structure.groups import unpack_cut


def run_steady(run: Run, problem: Problem, engine: Engine, store: Store, report: Reporter) -> None:
    """Ask for one candidate whenever a worker is free, and tell each outcome as it comes."""
    config, fidelity, seed = problem.config.search, problem.config.fitness.fidelity, problem.config.seed
    evaluate_dense(problem, engine, store, report)
    tracker, known = CandidateTracker(problem, store, report), load_inherited_outcomes(store, fidelity)
    replay(tracker, problem, store, report)
    stood, begun = tracker.num_told, time.perf_counter()
    if stood:
        report("resumed", describe_progress(stood, stood // config.population, problem, store))
    if (
        len(store.read_generations()) < stood // config.population
    ):  # stopped between an evaluation and the record of all
        record_generation(stood // config.population, 0.0, problem, store, report)
    reason = find_stop_reason(config, store.read_generations())

    def send(candidate: Candidate) -> None:
        if candidate.digest in known:
            receive(known[candidate.digest])
        else:
            engine.submit(make_request(candidate.cut, fidelity, seed))

    def feed() -> None:
        while reason is None and tracker.num_asked < config.evaluations and len(tracker.pending) < engine.workers:
            candidate = tracker.ask()
            if candidate is None:
                break
            send(candidate)

    def receive(outcome: Outcome) -> None:
        nonlocal reason, begun
        number, candidate = tracker.pending[outcome.digest]
        genome_values = tracker.optimizer.serialize_genome(candidate.genome)
        asked = make_request(candidate.cut, fidelity, seed)
        row = make_row(number, candidate, genome_values, tracker.num_told // config.population, asked, outcome, problem)
        store_row(row, outcome, store, tracker.num_asked)
        report("evaluated", {**describe_row(row, problem), "busy": engine.busy_workers, "workers": engine.workers})
        tracker.tell(row.digest, make_candidate_result(candidate, row, problem))
        if tracker.num_told % config.population == 0:
            record_generation(
                tracker.num_told // config.population, time.perf_counter() - begun, problem, store, report
            )
            begun = time.perf_counter()
            reason = reason or find_stop_reason(config, store.read_generations())

    for _, candidate in list(tracker.pending.values()):
        send(candidate)
    for outcome in engine.iter_outcomes(feed):
        receive(outcome)
    if tracker.num_told % config.population and tracker.num_told > stood:
        record_generation(
            tracker.num_told // config.population + 1, time.perf_counter() - begun, problem, store, report
        )
    if reason is not None:
        report("stopped", {"reason": reason})


class CandidateTracker:
    """An optimiser, what it was asked, and what of that is still out: by digest, with the number it was asked under."""

    def __init__(self, problem: Problem, store: Store, report: Reporter) -> None:
        self.problem, self.report = problem, report
        self.optimizer: Optimizer = make_search_optimizer(problem)
        seeds = make_seeds(problem, store, self.optimizer)
        warn_of_baselines(len(seeds), problem.config.search.evaluations, report)
        # however long the search is to be: a longer one begins with the same
        self._initial = deque(self.optimizer.ask_first(seeds, sys.maxsize))
        self.num_asked, self.num_told = 0, 0
        self.pending: dict[str, tuple[int, Candidate]] = {}
        self._known: set[str] = set()
        self._exhausted = False

    def ask(self) -> Candidate | None:
        """The next candidate, out from now on; None for good once the space is used up."""
        if self._exhausted:
            return None
        candidate = self._initial.popleft() if self._initial else self.optimizer.ask_one(self._known)
        if candidate is None:
            self._exhausted = True
            warn_of_exhaustion(self.problem, self.report)
            return None
        self.num_asked += 1
        self.pending[candidate.digest] = (self.num_asked, candidate)
        self._known.add(candidate.digest)
        return candidate

    def replace(self, number: int, candidate: Candidate) -> None:
        """That `candidate` is what was asked for under `number`, not what would be asked for now."""
        self.pending = {digest: item for digest, item in self.pending.items() if item[0] != number}
        self.pending[candidate.digest] = (number, candidate)
        self.num_asked = max(self.num_asked, number)
        self._known.add(candidate.digest)

    def forget(self, digests: set[str]) -> None:
        """That these are judged already, under whatever number."""
        self.pending = {digest: item for digest, item in self.pending.items() if digest not in digests}

    def tell(self, digest: str, result: CandidateResult | None) -> None:
        """That a candidate has come back."""
        del self.pending[digest]
        self.num_told += 1
        self.optimizer.tell_one(digest, result)


def replay(tracker: CandidateTracker, problem: Problem, store: Store, report: Reporter) -> None:
    """Ask and tell as the store says it went, so that `asking` stands where the search was stopped."""
    rows = {row.id: row for row in store.read_evaluations()}
    otherwise = 0
    for completion in store.read_completions():
        row = rows[completion.id]
        if not row.id:
            continue  # the dense network: nobody asked for it
        while tracker.num_asked < completion.asked and tracker.ask() is not None:
            pass
        if tracker.pending.get(row.digest, (0,))[0] != row.id:
            otherwise += 1
            cut = unpack_cut(row.cut, problem.structure.maps.channels)
            genome = tracker.optimizer.deserialize_genome(json.loads(row.genome))
            tracker.replace(row.id, Candidate(genome, cut, row.digest, row.origin))
        _, candidate = tracker.pending[row.digest]
        tracker.tell(row.digest, make_candidate_result(candidate, row, problem))
    if otherwise:
        text = f"{otherwise} networks of the journal are not asked for again here: this machine computes otherwise"
        report("warning", {"text": f"{text}; the search goes on from what was judged"})
        tracker.forget({row.digest for row in rows.values()})
