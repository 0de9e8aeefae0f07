"""The steady schedule: a free worker gets the next candidate at once, each outcome goes to the optimizer on arrival.

Outcomes that are ready together are stored in one transaction, before the optimizer receives the first of them.

The order of arrival is part of the result, so the store records it: which evaluation arrived, and how many had been
asked for by then. With the run's seed, this journal reproduces every step. After a crash the optimizer is in the state
it had when the last evaluation was stored, nothing stored is evaluated again, and pending candidates are asked for
again under the same numbers. From there on, arrival order decides again. With one worker there is only one order, and a
resumed search ends bit for bit like an uninterrupted one.

About every `CHECKPOINT_INTERVAL` evaluations, a checkpoint saves the optimizer and the pending candidates, so that
resuming repeats only the rest of the journal. Where there is none, or the optimizer cannot save its state between
candidates, resuming repeats the whole journal.

With a ladder, a free worker trains a network for the next rung where one has a place, and evaluates a candidate
otherwise. This begins once every candidate of the first generation is evaluated; the learning rate is found then, while
no other request is outstanding.

On a machine that rounds differently, the optimizer may ask for other candidates than the journal has. It then receives
the stored results instead; a warning says so, and the search continues from there.
"""

import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import TypedDict

from blendsearch.blend.genome import GenomeFields
from blendsearch.errors import RunError
from blendsearch.events import StoppedEarly
from blendsearch.fitness.evaluator import Outcome, make_request
from blendsearch.garbage import pause_garbage_collection
from blendsearch.pipeline.archive import SearchArchive
from blendsearch.pipeline.ladder import make_ladder
from blendsearch.pipeline.methods.method import make_search_optimizer, make_seeds
from blendsearch.pipeline.optimizers.base import Candidate, CandidateResult, Optimizer, parse_stored_genome
from blendsearch.pipeline.problem.session import SearchSession
from blendsearch.pipeline.recording import (
    check_completions,
    check_journal,
    describe_progress,
    evaluate_dense,
    load_inherited_outcomes,
    make_candidate_result,
    make_row,
    record_generation,
    report_evaluation,
    store_on_interruption,
    store_rows,
    warn_of_baselines,
    warn_of_exhaustion,
)
from blendsearch.pipeline.stopping import find_stop_reason
from blendsearch.runs.checkpoint import load_checkpoint, save_checkpoint
from blendsearch.runs.records import Evaluation
from blendsearch.structure.groups import pack_cut, unpack_cut

CHECKPOINT_INTERVAL = 500
"""Least number of evaluations between two checkpoints; about 3 ms each to repeat."""


class PendingState(TypedDict):
    """A pending candidate in a checkpoint; `cut` is packed to bits, as hexadecimal text."""

    number: int
    digest: str
    origin: str
    cut: str
    genome: GenomeFields


class TrackerState(TypedDict):
    """The state of a `CandidateTracker` in a checkpoint. `completions` counts the entries of the journal so far."""

    completions: int
    asked: int
    told: int
    initial: int
    exhausted: bool
    pending: list[PendingState]
    optimizer: Mapping[str, object]


def run_steady(session: SearchSession) -> None:
    """Search without generations, from where the journal ends."""
    check_journal(session)
    evaluate_dense(session)
    with pause_garbage_collection():  # of the rows that are read
        search = SteadySearch(session)
    search.run()


class CandidateTracker:
    """An optimizer and its pending candidates: by digest, with the number that each was asked for under."""

    def __init__(self, session: SearchSession) -> None:
        self.session = session
        self.optimizer: Optimizer = make_search_optimizer(session.problem)
        seeds = make_seeds(session.problem, session.store, self.optimizer)
        warn_of_baselines(len(seeds), session)
        # independent of the number of evaluations: a longer search begins with the same candidates
        self._initial = deque(self.optimizer.ask_first(seeds, sys.maxsize))
        self._num_initial = len(self._initial)
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

    @property
    def has_begun(self) -> bool:
        """Return True once every candidate of the first generation is evaluated."""
        return not self._initial and all(number > self._num_initial for number, _ in self.pending.values())

    @property
    def saves_state(self) -> bool:
        """Return True if `state_dict` holds everything, also of the optimizer."""
        return bool(getattr(self.optimizer, "saves_steady_state", False))

    def state_dict(self) -> TrackerState:
        """Return everything that exact resumption needs, as JSON values."""
        return {
            "completions": self.session.store.count_completions(),
            "asked": self.num_asked,
            "told": self.num_told,
            "initial": len(self._initial),
            "exhausted": self._exhausted,
            "pending": [self._describe_pending(number, item) for number, item in self.pending.values()],
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: TrackerState) -> None:
        """Continue from what `state_dict` returned, read back from JSON."""
        self.num_asked, self.num_told, self._exhausted = state["asked"], state["told"], state["exhausted"]
        while len(self._initial) > state["initial"]:
            self._initial.popleft()
        self.optimizer.load_state_dict(state["optimizer"])
        channels = self.session.problem.structure.maps.channels
        for item in state["pending"]:
            genome = self.optimizer.deserialize_genome(item["genome"])
            cut = unpack_cut(bytes.fromhex(item["cut"]), channels)
            self.pending[item["digest"]] = item["number"], Candidate(genome, cut, item["digest"], item["origin"])
        # without later rows, which the optimizer is to propose again
        digests = self.session.store.read_digests(-1, sys.maxsize)
        completed = self.session.store.read_completions()[: state["completions"]]
        self._known = {*(digests[item.id] for item in completed if item.id), *self.pending}

    def _describe_pending(self, number: int, candidate: Candidate) -> PendingState:
        return {
            "number": number,
            "digest": candidate.digest,
            "origin": candidate.origin,
            "cut": pack_cut(candidate.cut).hex(),
            "genome": self.optimizer.serialize_genome(candidate.genome),
        }


class SteadySearch:
    """The loop of the steady schedule on one session."""

    def __init__(self, session: SearchSession) -> None:
        self.session, self.config = session, session.problem.config.search
        self.tracker = CandidateTracker(session)
        self.inherited = load_inherited_outcomes(session.store, session.problem.config.fitness.fidelity)
        self.archive = SearchArchive(session.store, session.problem)
        replay(self.tracker, session, load_tracker(self.tracker, session))
        self.ladder = make_ladder(session)
        self.saved = self.tracker.num_told
        self.replayed, self.generation_start = self.tracker.num_told, time.perf_counter()
        self.stop_reason: str | None = None
        self.arrived: list[Outcome] = []

    def run(self) -> None:
        """Evaluate until the evaluations are used up, the space is, or a stop rule holds."""
        self._report_resumption()
        self.stop_reason = find_stop_reason(self.config, self.archive.generations)
        for _, candidate in list(self.tracker.pending.values()):
            self._send(candidate)
        self._drain()
        if self._prepare_ladder():
            self._drain()
        if self.tracker.num_told % self.config.population and self.tracker.num_told > self.replayed:
            self._record_generation(self.tracker.num_told // self.config.population + 1)
        if self.stop_reason is not None:
            self.session.report(StoppedEarly(reason=self.stop_reason))

    def _report_resumption(self) -> None:
        generation = self.replayed // self.config.population
        if self.replayed:
            self.session.report(describe_progress(self.replayed, generation, self.session, self.archive))
        # stopped between evaluations and the records of the generations that they complete
        for missing in range(len(self.archive.generations) + 1, generation + 1):
            record_generation(missing, 0.0, self.session, self.archive)

    def _drain(self) -> None:
        """Receive outcomes, and feed the workers, until nothing is outstanding."""
        with store_on_interruption(self._store_arrived):
            for outcome in self.session.engine.iter_outcomes(self._feed):
                if self.ladder is None or not self.ladder.receive(outcome):
                    self.arrived.append(outcome)
            self._receive_arrived()

    def _prepare_ladder(self) -> bool:
        """Find the ladder's learning rate; return False where it is not needed or known."""
        if self.ladder is None or self.ladder.is_prepared or not self.tracker.has_begun:
            return False
        self.ladder.prepare()
        return True

    def _send(self, candidate: Candidate) -> None:
        if candidate.digest in self.inherited:
            self.arrived.append(self.inherited[candidate.digest])
            self._receive_arrived()
        else:
            config = self.session.problem.config
            self.session.engine.submit(make_request(candidate.cut, config.fitness.fidelity, config.seed))

    def _feed(self) -> None:
        """Receive what has arrived, then send trainings and candidates while workers are free."""
        self._receive_arrived()
        while self._count_outstanding() < self.session.engine.workers:
            if self.ladder is not None and self.tracker.has_begun:
                if not self.ladder.is_prepared:
                    break
                promotion = self.ladder.choose_next(self.tracker.num_told / self.config.evaluations)
                if promotion is not None:
                    self.ladder.submit(promotion)
                    continue
            if not self._has_more():
                break
            candidate = self.tracker.ask()
            if candidate is None:
                break
            self._send(candidate)

    def _count_outstanding(self) -> int:
        return len(self.tracker.pending) + (0 if self.ladder is None else self.ladder.num_running)

    def _has_more(self) -> bool:
        return self.stop_reason is None and self.tracker.num_asked < self.config.evaluations

    def _receive_arrived(self) -> None:
        """Store what has arrived in one transaction; then report it and pass it to the optimizer, in that order."""
        is_generation_complete = False
        for row, is_new in self._store_arrived():
            if is_new:
                self.archive.add(row)
            is_generation_complete |= self._learn(row)
        if is_generation_complete:
            self._save_checkpoint()  # now, when the optimizer knows all that is stored

    def _store_arrived(self) -> list[tuple[Evaluation, bool]]:
        """Store what has arrived; return the rows, with False for those that were stored already."""
        if not self.arrived:
            return []
        rows = [self._make_row(outcome, place) for place, outcome in enumerate(self.arrived)]
        added = store_rows(rows, self.arrived, self.session.store, self.tracker.num_asked)
        self.arrived.clear()
        return list(zip(rows, added, strict=True))

    def _make_row(self, outcome: Outcome, place: int) -> Evaluation:
        """Make the row of an outcome, the one at `place` of those that have arrived."""
        problem, tracker = self.session.problem, self.tracker
        number, candidate = tracker.pending[outcome.digest]
        genome_values = tracker.optimizer.serialize_genome(candidate.genome)
        request = make_request(candidate.cut, problem.config.fitness.fidelity, problem.config.seed)
        generation = (tracker.num_told + place) // self.config.population
        return make_row(number, candidate, genome_values, generation, request, outcome, problem)

    def _learn(self, row: Evaluation) -> bool:
        """Report a stored row and pass it to the optimizer; return True if it completes a generation."""
        tracker, size = self.tracker, self.config.population
        report_evaluation(row, self.session)
        if self.ladder is not None:
            self.ladder.add([row])
        _, candidate = tracker.pending[row.digest]
        tracker.tell(row.digest, make_candidate_result(candidate, row, self.session.problem))
        if tracker.num_told % size:
            return False
        self._record_generation(tracker.num_told // size)
        self.generation_start = time.perf_counter()
        self.stop_reason = self.stop_reason or find_stop_reason(self.config, self.archive.generations)
        return True

    def _save_checkpoint(self) -> None:
        """Save a checkpoint where the last one is old enough."""
        told = self.tracker.num_told
        if self.tracker.saves_state and told - self.saved >= CHECKPOINT_INTERVAL:
            stand = {"tracker": self.tracker.state_dict()}
            save_checkpoint(self.session.run.checkpoints, told // self.config.population, stand)
            self.saved = told

    def _record_generation(self, generation: int) -> None:
        record_generation(generation, time.perf_counter() - self.generation_start, self.session, self.archive)


def load_tracker(tracker: CandidateTracker, session: SearchSession) -> int:
    """Load the last checkpoint into `tracker`, where there is one; return the entries of the journal until then."""
    try:
        state = load_checkpoint(session.run.checkpoints, session.warn)
    except RunError as error:
        session.warn(f"{error}; this search repeats its whole journal instead")
        return 0
    if state is None or "tracker" not in state or not tracker.saves_state:
        return 0
    count = int(state["tracker"]["completions"])
    check_completions(count, session)
    tracker.load_state_dict(state["tracker"])
    return count


def replay(tracker: CandidateTracker, session: SearchSession, after: int) -> None:
    """Repeat the journal's asks and tells after `after` entries, so that `tracker` stands where the search stopped."""
    problem, store = session.problem, session.store
    num_replaced = 0
    for completion in store.read_completions()[after:]:
        row = store.read_evaluation(completion.id)
        if row is None or not row.id:
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
        tracker.forget(set(store.read_digests(-1, sys.maxsize).values()))
