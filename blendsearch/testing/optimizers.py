"""The contract of an optimizer: distinct cuts at the budget, one stream of randomness, exact restoring."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from blendsearch.blend.genome import Genome
from blendsearch.pipeline.optimizers.base import Candidate, CandidateResult, Optimizer
from blendsearch.runs.origin import EVOLVED

COUNT = 12
"""Candidates per generation."""


def accept_candidate(candidate: Candidate) -> None:
    """Accept every candidate."""


@dataclass(frozen=True)
class OptimizerCase:
    """An optimizer under test, with a cheap stand-in for evaluations.

    Attributes
    ----------
    make: creates the optimizer from a seed.
    loss: the loss of a candidate, from its cut alone; lower is better.
    seeds: the named genomes of the first generation.
    check: raises AssertionError for a candidate that misses the budget.
    """

    make: Callable[[int], Optimizer]
    loss: Callable[[Candidate], float]
    seeds: Sequence[tuple[str, Genome]] = ()
    check: Callable[[Candidate], None] = accept_candidate

    def begin(self, seed: int = 0) -> tuple[Optimizer, set[str], list[Candidate]]:
        """Create the optimizer and run its first generation; return it, the known digests and the candidates."""
        optimizer = self.make(seed)
        first = optimizer.ask_first(self.seeds, 200)
        self.report_back(optimizer, first)
        return optimizer, {item.digest for item in first}, first

    def report_back(self, optimizer: Optimizer, candidates: Sequence[Candidate]) -> None:
        """Give `optimizer` the results of a generation."""
        optimizer.tell([self.make_result(item) for item in candidates])

    def make_result(self, candidate: Candidate) -> CandidateResult:
        """Make the result of a candidate; both objectives are its loss."""
        loss = self.loss(candidate)
        return CandidateResult(candidate.genome, (loss, loss), candidate.digest, candidate.origin)

    def run_generations(
        self, optimizer: Optimizer, number: int, known: set[str], count: int = COUNT
    ) -> list[list[Candidate]]:
        """Run `number` generations and return their candidates; `known` grows by their digests."""
        found = []
        for _ in range(number):
            asked = optimizer.ask(count, known)
            known |= {item.digest for item in asked}
            self.report_back(optimizer, asked)
            found.append(asked)
        return found

    def run_steady(
        self, optimizer: Optimizer, first: Sequence[Candidate], workers: int, number: int, seed: int = 5
    ) -> list[Candidate]:
        """Ask for `number` candidates one at a time, with up to `workers` pending that finish in random order.

        One in ten evaluations fails.
        """
        rng, waiting = np.random.default_rng(seed), list(first)
        pending: list[Candidate] = []
        asked: list[Candidate] = []
        while len(asked) < number or pending:
            while len(pending) < workers and len(asked) < number:
                found = waiting.pop(0) if waiting else optimizer.ask_one({item.digest for item in asked})
                assert found is not None, f"no candidate after {len(asked)} of {number}"
                asked.append(found)
                pending.append(found)
            back = pending.pop(int(rng.integers(len(pending))))
            failed = len(asked) % 10 == 9
            optimizer.tell_one(back.digest, None if failed else self.make_result(back))
        return asked


def check_optimizer(case: OptimizerCase) -> None:
    """Check everything that every optimizer must do. `check_learning` is for those that learn."""
    check_candidates(case)
    check_restoring(case)
    check_seeding(case)
    for workers in (1, 40):
        check_steady_candidates(case, workers)


def check_candidates(case: OptimizerCase) -> None:
    """Check that cuts are distinct and at the budget, and that genomes survive JSON."""
    optimizer, known, first = case.begin()
    asked = [*first, *(item for some in case.run_generations(optimizer, 4, known) for item in some)]
    assert len({item.digest for item in asked}) == len(asked) >= 50, "a cut was proposed twice, or too few"
    for item in asked:
        case.check(item)
        text = json.dumps(optimizer.serialize_genome(item.genome), allow_nan=False)
        again = optimizer.deserialize_genome(json.loads(text))
        assert again.flatten() == item.genome.flatten(), "a genome does not survive JSON"


def check_restoring(case: OptimizerCase) -> None:
    """Check that an optimizer restored from its state continues with the same candidates."""
    optimizer, known, _ = case.begin()
    case.run_generations(optimizer, 3, known)
    state, seen = json.loads(json.dumps(optimizer.state_dict())), set(known)
    expected = case.run_generations(optimizer, 3, known)
    restored = case.make(99)
    restored.load_state_dict(state)
    found = case.run_generations(restored, 3, seen)
    assert _list_digests(found) == _list_digests(expected), "a restored optimizer proposes other candidates"


def check_seeding(case: OptimizerCase) -> None:
    """Check that one seed gives the same candidates twice, and another seed others."""
    asked = []
    for seed in (0, 0, 1):
        optimizer, known, _ = case.begin(seed)
        found = case.run_generations(optimizer, 3, known)
        asked.append({item.digest for some in found for item in some if item.origin == EVOLVED})
    assert asked[0] == asked[1], "the same seed gives other candidates"
    assert len(asked[0] & asked[2]) <= len(asked[0]) // 20, "another seed gives the same candidates"


def check_steady_candidates(case: OptimizerCase, workers: int, number: int = 90) -> None:
    """Check that candidates asked for one at a time are distinct, at the budget, and follow from the seed."""
    orders = []
    for seed in (0, 0, 1):
        optimizer = case.make(seed)
        asked = case.run_steady(optimizer, optimizer.ask_first(case.seeds, 10**9), workers, number)
        assert len({item.digest for item in asked}) == number, "a cut was proposed twice"
        for item in asked:
            case.check(item)
        orders.append([item.digest for item in asked])
    assert orders[0] == orders[1], "the same seed gives other candidates"
    assert orders[1] != orders[2], "another seed gives the same candidates"


def check_learning(case: OptimizerCase) -> None:
    """Check that generations improve on the first one and on each other."""
    optimizer, known, first = case.begin()
    found = [case.loss(item) for some in case.run_generations(optimizer, 12, known) for item in some]
    _check_improvement(found, first, case)


def check_steady_learning(case: OptimizerCase, workers: int) -> None:
    """Check that candidates asked for one at a time improve on the first generation and on each other."""
    optimizer = case.make(0)
    first = optimizer.ask_first(case.seeds, 10**9)
    asked = case.run_steady(optimizer, first, workers, len(first) + 150)
    _check_improvement([case.loss(item) for item in asked[len(first) :]], first, case)


def _check_improvement(losses: Sequence[float], first: Sequence[Candidate], case: OptimizerCase) -> None:
    assert min(losses) < min(case.loss(item) for item in first), "nothing better than the first generation"
    assert np.mean(losses[-24:]) < np.mean(losses[:24]), "the last candidates are no better than the first"


def _list_digests(generations: Sequence[Sequence[Candidate]]) -> list[list[str]]:
    return [[item.digest for item in some] for some in generations]
