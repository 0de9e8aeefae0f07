"""The generational schedule: ask for a generation, evaluate all of it, tell the optimizer.

The number and speed of workers do not change the result.
"""

import time
from collections.abc import Sequence
from itertools import chain
from typing import Any, TypedDict

from blendsearch.events import GenerationAsked, StoppedEarly
from blendsearch.fitness.evaluator import Outcome, make_request
from blendsearch.garbage import pause_garbage_collection
from blendsearch.pipeline.archive import SearchArchive
from blendsearch.pipeline.ladder import make_ladder
from blendsearch.pipeline.methods.method import make_search_optimizer, make_seeds
from blendsearch.pipeline.optimizers.base import Candidate, CandidateResult, restore_optimizer
from blendsearch.pipeline.problem.session import SearchSession
from blendsearch.pipeline.recording import (
    check_stored,
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
from blendsearch.runs.checkpoint import load_checkpoint, refuse_unfit_state, save_checkpoint
from blendsearch.runs.decoding import check_type
from blendsearch.runs.records import Evaluation


class SearchState(TypedDict):
    """A checkpoint of the search: the next generation, the evaluations before it, and the optimizer's state."""

    generation: int
    asked: int
    evolution: dict[str, Any]


def run_generational(session: SearchSession) -> None:
    """Search generation by generation, from the last checkpoint where there is one."""
    with pause_garbage_collection():  # of the rows that are read
        search = GenerationalSearch(session)
    search.run()


class GenerationalSearch:
    """The loop of the generational schedule on one session.

    Attributes
    ----------
    generation, asked: the generations that are complete, and the evaluations asked for in them.
    known: digests of the cuts evaluated by then, which the optimizer does not propose again.
    """

    def __init__(self, session: SearchSession) -> None:
        self.session, self.config = session, session.problem.config.search
        self.optimizer = make_search_optimizer(session.problem)
        self.generation, self.asked = 0, 0
        state = load_checkpoint(session.run.checkpoints, session.warn)
        if state is not None:
            with refuse_unfit_state(session.run.checkpoints):
                check_type(state, SearchState)
                restore_optimizer(self.optimizer, state["evolution"])
            self.generation, self.asked = state["generation"], state["asked"]
            check_stored(self.asked, self.generation, session)
        self.archive = SearchArchive(session.store, session.problem)
        if state is not None:
            session.report(describe_progress(self.asked, self.generation, session, self.archive))
        evaluate_dense(session)
        self.known = set(session.store.read_digests(-1, self.asked).values())
        self.ladder = make_ladder(session, self.asked)
        self.inherited = load_inherited_outcomes(session.store, session.problem.config.fitness.fidelity)

    def run(self) -> None:
        """Evaluate until the evaluations are used up, the space is, or a stop rule holds."""
        reason = find_stop_reason(self.config, self.archive.generations)
        while self.asked < self.config.evaluations and reason is None:
            start = time.perf_counter()
            candidates = self._ask()
            if not candidates:
                warn_of_exhaustion(self.session)
                break
            rows = self._evaluate(candidates)
            results = [
                make_candidate_result(*pair, self.session.problem) for pair in zip(candidates, rows, strict=True)
            ]
            self.optimizer.tell(self._climb(rows, [item for item in results if item is not None]))
            self._complete_generation(len(candidates), start)
            reason = find_stop_reason(self.config, self.archive.generations)
        if reason is not None:
            self.session.report(StoppedEarly(reason=reason))

    def _climb(self, rows: Sequence[Evaluation], results: list[CandidateResult]) -> list[CandidateResult]:
        """Train the networks that the ladder promotes after a generation; return its results, ranked by their rungs."""
        if self.ladder is None:
            return results
        self.ladder.add(rows)
        self.ladder.climb((self.asked + len(rows)) / self.config.evaluations)
        return self.ladder.rank_results(results)

    def _ask(self) -> list[Candidate]:
        """Ask for the candidates of the next generation."""
        left = self.config.evaluations - self.asked
        if self.generation:
            return self.optimizer.ask(min(left, self.config.population), self.known)
        seeds = make_seeds(self.session.problem, self.session.store, self.optimizer)
        warn_of_baselines(len(seeds), self.session)
        return self.optimizer.ask_first(seeds, left)

    def _complete_generation(self, count: int, start: float) -> None:
        """Record the generation of `count` candidates that began at `start`, then save the checkpoint.

        In this order: after a crash in between, the generation is recorded again with equal values.
        """
        before = self.asked
        self.generation, self.asked = self.generation + 1, before + count
        record_generation(self.generation, time.perf_counter() - start, self.session, self.archive)
        stand = {"generation": self.generation, "asked": self.asked, "evolution": self.optimizer.state_dict()}
        save_checkpoint(self.session.run.checkpoints, self.generation, stand)
        self.known.update(self.session.store.read_digests(before, self.asked).values())

    def _evaluate(self, candidates: Sequence[Candidate]) -> list[Evaluation]:
        """Evaluate `candidates`; return their rows in order.

        Results are stored as they arrive, those that are ready together in one transaction. Results that the store
        already holds, from before a crash or inherited by a fork, are not evaluated again.
        """
        problem, engine, store = self.session.problem, self.session.engine, self.session.store
        fidelity = problem.config.fitness.fidelity
        numbered = {item.digest: (self.asked + 1 + place, item) for place, item in enumerate(candidates)}
        rows = {row.digest: row for row in store.find_evaluations(list(numbered), fidelity)}
        requests = {item.digest: make_request(item.cut, fidelity, problem.config.seed) for item in candidates}
        missing = [digest for digest in requests if digest not in rows]
        self._report_start(len(candidates), len(requests) - len(missing))
        for digest in missing:
            if digest not in self.inherited:
                engine.submit(requests[digest])
        arrived: list[tuple[Evaluation, Outcome]] = []

        def receive() -> None:
            """Store what has arrived, then report it."""
            if arrived:
                found, outcomes = zip(*arrived, strict=True)
                store_rows(found, outcomes, store, self.asked + len(candidates), self.archive)
                arrived.clear()
                for row in found:
                    rows[row.digest] = row
                    report_evaluation(row, self.session)

        reused = (self.inherited[digest] for digest in missing if digest in self.inherited)
        with store_on_interruption(receive):
            for outcome in chain(reused, engine.iter_outcomes(receive)):
                number, candidate = numbered[outcome.digest]
                genome_values = self.optimizer.serialize_genome(candidate.genome)
                request = requests[outcome.digest]
                row = make_row(number, candidate, genome_values, self.generation, request, outcome, problem)
                arrived.append((row, outcome))
            receive()
        return [rows[candidate.digest] for candidate in candidates]

    def _report_start(self, candidates: int, cached: int) -> None:
        """Report the start of a generation, of whose `candidates` so many are stored already."""
        self.session.report(
            GenerationAsked(
                generation=self.generation,
                before=self.asked,
                candidates=candidates,
                cached=cached,
                workers=self.session.engine.workers,
            )
        )
