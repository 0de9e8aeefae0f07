"""CMA-ES around the best baseline, for one budget and one blend for the whole network.

A normal distribution with one variance per gene, moved towards the better half of its samples (diagonal_cma.py). It
learns more from the same evaluations than a genetic algorithm, because every gene of every candidate counts.

Three stages, each one generation or more:

1. the baselines;
2. every criterion, and the equal blend, in the allocation of the best baseline: the allocation matters more than the
   criterion, so the criteria are compared again in the best one;
3. the evolution strategy, from the best allocation and a blend in which a criterion has the more weight, the better it
   was in stage 2.

One at a time (the steady schedule), a stage begins when the previous one is complete; workers that are free until then
evaluate samples around the best candidate so far. The strategy learns from every `size` results. Those sampled before
its last step are external solutions, whose steps are bounded.
"""

from collections import deque
from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from blendsearch.blend.genome import (
    Genome,
    GenomeFields,
    check_genes,
    compute_bounds,
    compute_flip_step,
    unflatten_genome,
)
from blendsearch.blend.network_space import WEIGHT_SCALE, BlendSpace
from blendsearch.pipeline.optimizers.base import Candidate, CandidateResult, get_random_state, set_random_state
from blendsearch.pipeline.optimizers.baselines import vary_criteria
from blendsearch.pipeline.optimizers.cma_state import CmaState, StageResultState, SteadyState
from blendsearch.pipeline.optimizers.diagonal_cma import DiagonalStrategy
from blendsearch.pipeline.optimizers.evolution import LONG_SEARCH, TRIES, merge_duplicate_seeds
from blendsearch.runs.origin import EVOLVED, Origin
from blendsearch.structure.groups import Cut, compute_cut_digest

SHARE_STEP = 0.05
"""Initial standard deviation of shares: 0.4 in the log-odds of keeping a channel."""
LOG_LOSS_SCALE = 0.15
"""Difference in log loss to the best criterion at which a criterion begins with 1/e of its weight."""
WIDENINGS = (1.0, 2.0, 4.0, 8.0)
"""Factors of the standard deviations of a long search's restarts: the cuts near the best become known one by one."""

Vector = NDArray[np.float64]


class Cma:
    """The optimizer. `size` is the number of candidates of a generation; all randomness comes from `rng`.

    Only the first objective counts. With `evolves_widths`, shares are genes too.
    """

    saves_steady_state = True

    def __init__(
        self,
        space: BlendSpace,
        decode: Callable[[Genome], Cut],
        size: int,
        rng: np.random.Generator,
        evolves_widths: bool = True,
    ) -> None:
        self.space, self.decode, self.size, self.rng = space, decode, size, rng
        self.evolves_widths = evolves_widths
        self.best: tuple[float, list[float]] | None = None
        self.strategy: DiagonalStrategy | None = None
        self._vectors: dict[str, Vector] = {}  # the sample of each digest whose result is missing
        # one at a time: candidates of the present stage that are queued and pending, and the results of stage 2
        self._queue: deque[Candidate] = deque()
        self._pending: set[str] = set()
        self._stage_results: list[CandidateResult] | None = None
        self._is_fork = False
        self._samples: list[tuple[float, Vector]] = []
        self._is_steady = False

    def ask_first(self, seeds: Sequence[tuple[str, Genome]], limit: int) -> list[Candidate]:
        """Return the baselines; those with the same cut are one candidate with the names of all."""
        found = merge_duplicate_seeds(seeds, self.decode, limit)
        self._pending = set(found)
        return list(found.values())

    def ask(self, count: int, known: set[str]) -> list[Candidate]:
        if self.best is None:  # no baseline could be evaluated: begin anywhere
            self.best = (np.inf, self.space.sample(self.rng).flatten())
        if self.strategy is None:
            if fresh := self._vary_criteria(known)[:count]:
                return fresh
            self._start([])
        assert self.strategy is not None
        return self._sample_or_restart(min(count, self.size), known)

    def tell(self, results: Sequence[CandidateResult]) -> None:
        for item in results:
            if self.best is None or item.objectives[0] < self.best[0]:
                self.best = (item.objectives[0], item.genome.flatten())
        if self.strategy is None:
            if any(item.origin == EVOLVED for item in results):  # a fork: the best is known, blend and all
                self._start([])
            elif any(Origin.parse(item.origin).in_best_allocation for item in results):
                self._start(results)
            return
        ranked = sorted(results, key=lambda item: item.rank)
        drawn = [self._vectors[item.digest] for item in ranked if item.digest in self._vectors]
        self._vectors.clear()
        if len(drawn) > 1:
            self.strategy.learn(drawn)

    def ask_one(self, known: set[str]) -> Candidate | None:
        self._is_steady = True
        if self.strategy is None and not self._pending and self.best is not None:
            if self._stage_results is None:
                self._stage_results, self._queue = [], deque([] if self._is_fork else self._vary_criteria(known))
                self._pending = {item.digest for item in self._queue}
            if not self._pending:
                self._start([] if self._is_fork else self._stage_results)
        if self._queue:
            return self._queue.popleft()
        if self.strategy is not None:
            return next(iter(self._sample_or_restart(1, known)), None)
        around = self._make_strategy(self.space.make_equal_blend() if self.best is None else self._make_best_genome())
        return next(iter(self._sample_strategy(around, 1, known) or self._sample_space(1, known)), None)

    def tell_one(self, digest: str, result: CandidateResult | None) -> None:
        self._is_steady = True
        seed = digest in self._pending and self._stage_results is None
        self._pending.discard(digest)
        self._vectors.pop(digest, None)
        if result is None:
            return
        self._is_fork |= seed and result.origin == EVOLVED
        loss = result.objectives[0]
        if self.best is None or loss < self.best[0]:
            self.best = (loss, result.genome.flatten())
        if self.strategy is None:
            if self._stage_results is not None and Origin.parse(result.origin).in_best_allocation:
                self._stage_results.append(result)
        elif result.origin == EVOLVED:
            self._samples.append((loss, np.array(result.genome.flatten())))
            if len(self._samples) == self.size:
                ranked = sorted(self._samples, key=lambda pair: pair[0])
                self.strategy.learn([vector for _, vector in ranked], bounded=True)
                self._samples.clear()

    def serialize_genome(self, genome: Genome) -> GenomeFields:
        return self.space.describe(genome)

    def deserialize_genome(self, facts: GenomeFields) -> Genome:
        return self.space.parse_genome(facts)

    def state_dict(self) -> CmaState:
        """Return everything that exact resumption needs, as JSON values."""
        strategy = None if self.strategy is None else self.strategy.state_dict()
        state: CmaState = {"numpy": get_random_state(self.rng), "best": self.best, "strategy": strategy}
        if self._is_steady:
            state["steady"] = self._describe_steady_state()
        return state

    def load_state_dict(self, state: CmaState) -> None:
        set_random_state(self.rng, state["numpy"])
        if state["best"] is not None:
            check_genes(self.space, state["best"][1])
        self.best = None if state["best"] is None else (state["best"][0], state["best"][1])
        self.strategy = None if state["strategy"] is None else DiagonalStrategy.from_state_dict(state["strategy"])
        if "steady" in state:
            self._load_steady_state(state["steady"])

    def _describe_steady_state(self) -> SteadyState:
        results = self._stage_results
        return {
            "queue": [(item.origin, self.space.describe(item.genome)) for item in self._queue],
            "pending": sorted(self._pending),
            "stage_results": None if results is None else [_describe_result(item) for item in results],
            "is_fork": self._is_fork,
            "samples": [(loss, vector.tolist()) for loss, vector in self._samples],
        }

    def _load_steady_state(self, state: SteadyState) -> None:
        results = state["stage_results"]
        self._is_steady, self._is_fork, self._pending = True, state["is_fork"], set(state["pending"])
        self._queue = deque(self._decode_candidate(origin, fields) for origin, fields in state["queue"])
        self._stage_results = None if results is None else [self._parse_result(item) for item in results]
        self._samples = [(loss, np.array(genes)) for loss, genes in state["samples"]]

    def _decode_candidate(self, origin: str, fields: GenomeFields) -> Candidate:
        genome = self.space.parse_genome(fields)
        cut = self.decode(genome)
        return Candidate(genome, cut, compute_cut_digest(cut), origin)

    def _parse_result(self, state: StageResultState) -> CandidateResult:
        genome = unflatten_genome(self.space, state["genes"])
        return CandidateResult(genome, tuple(state["objectives"]), state["digest"], state["origin"])

    def _make_best_genome(self) -> Genome:
        assert self.best is not None
        return unflatten_genome(self.space, self.best[1])

    def _vary_criteria(self, known: set[str]) -> list[Candidate]:
        """Make every criterion, and the equal blend, with the shares of the best baseline; those not `known`."""
        every = vary_criteria(self.space, self._make_best_genome())
        found = merge_duplicate_seeds(every, self.decode, len(every))
        return [candidate for digest, candidate in found.items() if digest not in known]

    def _start(self, results: Sequence[CandidateResult]) -> None:
        """Start the strategy from the best allocation, with weights from each criterion's result in it."""
        centre = self._make_best_genome()
        losses = {
            name.rule if name.in_best_allocation else name.text: item.objectives[0]
            for item in results
            for name in Origin.parse(item.origin).names
        }
        if losses and min(losses.values()) > 0:
            least = min(losses.values())
            weights = [
                # a criterion without a result was evaluated before, as the best baseline
                -np.log(losses.get(name, least) / least) / (LOG_LOSS_SCALE * WEIGHT_SCALE)
                for name in self.space.criteria
            ]
            centre = centre._replace(blend=self.space.make_blend(np.clip(weights, -1, 0)))
        self.strategy = self._make_strategy(centre)

    def _make_strategy(self, centre: Genome, scale: float = 1.0) -> DiagonalStrategy:
        spread = [
            *self.space.spread,
            *[SHARE_STEP if self.evolves_widths else 0.0] * self.space.groups,
            *[compute_flip_step(self.space.layers)] * self.space.layers,
            0.0,
        ]
        return DiagonalStrategy(np.array(centre.flatten()), scale * np.array(spread), self.size)

    def _sample_or_restart(self, count: int, known: set[str]) -> list[Candidate]:
        """Sample the strategy; where it has converged to known cuts, restart it around the best candidate.

        Where nothing new is near the best either, as in a small network, sample the whole space.
        """
        assert self.strategy is not None
        if len(known) >= LONG_SEARCH:
            return self._sample_or_widen(count, known)
        found = self._sample_strategy(self.strategy, count, known)
        if not found:
            self.strategy = self._make_strategy(self._make_best_genome())
            found = self._sample_strategy(self.strategy, count, known) or self._sample_space(count, known)
        return found

    def _sample_or_widen(self, count: int, known: set[str]) -> list[Candidate]:
        """Sample the strategy; after a few known cuts, restart it around the best candidate, wider until they are rare.

        The candidates that no strategy yields come from the whole space.
        """
        assert self.strategy is not None
        found = self._sample_strategy(self.strategy, count, known, tries=_limit_tries(count))
        for scale in WIDENINGS:
            if len(found) == count:
                return found
            self.strategy = self._make_strategy(self._make_best_genome(), scale)
            self._vectors.clear()  # the new strategy learns from its own samples
            missing, others = count - len(found), {item.digest for item in found}
            found += self._sample_strategy(self.strategy, missing, known, _limit_tries(missing), others)
        missing, others = count - len(found), {item.digest for item in found}
        return found + (self._sample_space(missing, known, others) if missing else [])

    def _sample_strategy(
        self,
        strategy: DiagonalStrategy,
        count: int,
        known: set[str],
        tries: int = 0,
        others: Collection[str] = (),
    ) -> list[Candidate]:
        low, high = compute_bounds(self.space)
        return self._collect_new(lambda: np.clip(strategy.draw(self.rng), low, high), count, known, tries, others)

    def _sample_space(self, count: int, known: set[str], others: Collection[str] = ()) -> list[Candidate]:
        return self._collect_new(lambda: np.array(self.space.sample(self.rng).flatten()), count, known, 0, others)

    def _collect_new(
        self, draw: Callable[[], Vector], count: int, known: set[str], tries: int, others: Collection[str]
    ) -> list[Candidate]:
        """Draw until there are `count` candidates that are neither `known` nor `others`, or so many `tries` were in
        vain.
        """
        found: dict[str, Candidate] = {}
        for _ in range(tries or TRIES * max(count, 5)):
            vector = draw()
            genome = unflatten_genome(self.space, vector.tolist())
            cut = self.decode(genome)
            digest = compute_cut_digest(cut)
            if digest not in known and digest not in found and digest not in others:
                self._vectors[digest] = vector
                found[digest] = Candidate(genome, cut, digest, EVOLVED)
                if len(found) == count:
                    break
        return list(found.values())


def _limit_tries(count: int) -> int:
    """Limit the draws for `count` new candidates of a long search: a fifth of them may be known, and four more."""
    return count * 5 // 4 + 4


def _describe_result(item: CandidateResult) -> StageResultState:
    return {
        "genes": item.genome.flatten(),
        "objectives": list(item.objectives),
        "digest": item.digest,
        "origin": item.origin,
    }
