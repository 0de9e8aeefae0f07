"""The steady schedule: a free worker gets the next candidate at once, each outcome goes to the optimizer on arrival.

The order of arrival is part of the result, so the store records it: which evaluation arrived, and how many had been
asked for by then. With the run's seed, this journal reproduces every step. After a crash the optimizer is in the state
it had when the last evaluation was stored, nothing stored is evaluated again, and pending candidates are asked for
again under the same numbers. From there on, arrival order decides again. With one worker there is only one order, and a
resumed search ends bit for bit like an uninterrupted one.

On a machine that rounds differently, the optimizer may ask for other candidates than the journal has. It then receives
the stored results instead; a warning says so, and the search continues from there.
"""

import sys
import time
from collections import deque

from blendsearch.errors import RunError
from blendsearch.events import StoppedEarly
from blendsearch.fitness.evaluator import Outcome, make_request
from blendsearch.pipeline.methods.method import make_search_optimizer, make_seeds
from blendsearch.pipeline.optimizers.base import Candidate, CandidateResult, Optimizer, parse_stored_genome
from blendsearch.pipeline.problem.session import SearchSession
from blendsearch.pipeline.recording import (
    describe_progress,
    evaluate_dense,
    load_inherited_outcomes,
    make_candidate_result,
    make_row,
    record_generation,
    report_evaluation,
    store_row,
    warn_of_baselines,
    warn_of_exhaustion,
)
from blendsearch.pipeline.stopping import find_stop_reason
from blendsearch.structure.groups import unpack_cut


def run_steady(session: SearchSession) -> None:
    """Search without generations, from where the journal ends."""
    evaluate_dense(session)
    SteadySearch(session).run()


class CandidateTracker:
    """An optimizer and its pending candidates: by digest, with the number that each was asked for under."""

    def __init__(self, session: SearchSession) -> None:
        self.session = session
        self.optimizer: Optimizer = make_search_optimizer(session.problem)
        seeds = make_seeds(session.problem, session.store, self.optimizer)
        warn_of_baselines(len(seeds), session)
        # independent of the number of evaluations: a longer search begins with the same candidates
        self._initial = deque(self.optimizer.ask_first(seeds, sys.maxsize))
        self.num_asked, self.num_told = 0, 0
        self.pending: dict[str, tuple[int, Candidate]] = {}
        self._known: set[str] = set()
        self._exhausted = False

    def ask(self) -> Candidate | None:
        """Return the next candidate and count it as pending; None for good when the space is used up."""
        if self._exhausted:
            return None
        candidate = self._initial.popleft() if self._initial else self.optimizer.ask_one(self._known)
        if candidate is None:
            self._exhausted = True
            warn_of_exhaustion(self.session)
            return None
        self.num_asked += 1
        self.pending[candidate.digest] = (self.num_asked, candidate)
        self._known.add(candidate.digest)
        return candidate

    def replace(self, number: int, candidate: Candidate) -> None:
        """Make `candidate` the one pending under `number`, instead of what the optimizer would ask for now."""
        self.pending = {digest: item for digest, item in self.pending.items() if item[0] != number}
        self.pending[candidate.digest] = (number, candidate)
        self.num_asked = max(self.num_asked, number)
        self._known.add(candidate.digest)

    def forget(self, digests: set[str]) -> None:
        """Drop pending candidates that were evaluated under another number."""
        self.pending = {digest: item for digest, item in self.pending.items() if digest not in digests}

    def tell(self, digest: str, result: CandidateResult | None) -> None:
        """Pass the result of a pending candidate to the optimizer."""
        del self.pending[digest]
        self.num_told += 1
        self.optimizer.tell_one(digest, result)


class SteadySearch:
    """The loop of the steady schedule on one session."""

    def __init__(self, session: SearchSession) -> None:
        self.session, self.config = session, session.problem.config.search
        self.tracker = CandidateTracker(session)
        self.inherited = load_inherited_outcomes(session.store, session.problem.config.fitness.fidelity)
        replay(self.tracker, session)
        self.replayed, self.generation_start = self.tracker.num_told, time.perf_counter()
        self.stop_reason: str | None = None

    def run(self) -> None:
        """Evaluate until the evaluations are used up, the space is, or a stop rule holds."""
        self._report_resumption()
        self.stop_reason = find_stop_reason(self.config, self.session.store.read_generations())
        for _, candidate in list(self.tracker.pending.values()):
            self._send(candidate)
        for outcome in self.session.engine.iter_outcomes(self._feed):
            self._receive(outcome)
        if self.tracker.num_told % self.config.population and self.tracker.num_told > self.replayed:
            self._record_generation(self.tracker.num_told // self.config.population + 1)
        if self.stop_reason is not None:
            self.session.report(StoppedEarly(reason=self.stop_reason))

    def _report_resumption(self) -> None:
        generation = self.replayed // self.config.population
        if self.replayed:
            self.session.report(describe_progress(self.replayed, generation, self.session))
        if len(self.session.store.read_generations()) < generation:  # stopped between an evaluation and this record
            record_generation(generation, 0.0, self.session)

    def _send(self, candidate: Candidate) -> None:
        if candidate.digest in self.inherited:
            self._receive(self.inherited[candidate.digest])
        else:
            config = self.session.problem.config
            self.session.engine.submit(make_request(candidate.cut, config.fitness.fidelity, config.seed))

    def _feed(self) -> None:
        """Send candidates while workers are free."""
        while self._has_more() and len(self.tracker.pending) < self.session.engine.workers:
            candidate = self.tracker.ask()
            if candidate is None:
                break
            self._send(candidate)

    def _has_more(self) -> bool:
        return self.stop_reason is None and self.tracker.num_asked < self.config.evaluations

    def _receive(self, outcome: Outcome) -> None:
        """Store and report an outcome, and pass it to the optimizer."""
        problem, tracker, size = self.session.problem, self.tracker, self.config.population
        number, candidate = tracker.pending[outcome.digest]
        genome_values = tracker.optimizer.serialize_genome(candidate.genome)
        request = make_request(candidate.cut, problem.config.fitness.fidelity, problem.config.seed)
        row = make_row(number, candidate, genome_values, tracker.num_told // size, request, outcome, problem)
        store_row(row, outcome, self.session.store, tracker.num_asked)
        report_evaluation(row, self.session)
        tracker.tell(row.digest, make_candidate_result(candidate, row, problem))
        if tracker.num_told % size == 0:
            self._record_generation(tracker.num_told // size)
            self.generation_start = time.perf_counter()
            generations = self.session.store.read_generations()
            self.stop_reason = self.stop_reason or find_stop_reason(self.config, generations)

    def _record_generation(self, generation: int) -> None:
        record_generation(generation, time.perf_counter() - self.generation_start, self.session)


def replay(tracker: CandidateTracker, session: SearchSession) -> None:
    """Repeat the journal's asks and tells, so that `tracker` stands where the search stopped."""
    problem, store = session.problem, session.store
    rows = {row.id: row for row in store.read_evaluations()}
    num_replaced = 0
    for completion in store.read_completions():
        if completion.id not in rows:
            raise RunError(
                f"run.sqlite of run {session.run.name!r} lacks network {completion.id}: restore it from a copy"
            )
        row = rows[completion.id]
        if not row.id:
            continue  # the dense network, which the optimizer did not ask for
        while tracker.num_asked < completion.asked and tracker.ask() is not None:
            pass
        if tracker.pending.get(row.digest, (0,))[0] != row.id:
            num_replaced += 1
            cut = unpack_cut(row.cut, problem.structure.maps.channels)
            genome = parse_stored_genome(tracker.optimizer, row.genome)
            tracker.replace(row.id, Candidate(genome, cut, row.digest, row.origin))
        _, candidate = tracker.pending[row.digest]
        tracker.tell(row.digest, make_candidate_result(candidate, row, problem))
    if num_replaced:
        session.warn(
            f"{num_replaced} networks of the journal are not asked for again here: this machine computes otherwise; "
            "the search continues from the stored results"
        )
        tracker.forget({row.digest for row in rows.values()})
