"""Method ``legr``: a learned global ranking of filters by an affine map of their L2 norms, layer by layer.

Chin et al. 2020, "Towards Efficient Model Compression via Learned Global Ranking", CVPR 2020. A channel's score is
alpha_g * (squared L2 norm) + beta_g; one threshold over the whole network meets the budget; regularized evolution
(the oldest dies) with a pool of 64 and tournaments of 16 finds alpha and beta. Where the paper is silent or this
implementation differs: beta is in standard deviations of the group's norms; a mutation changes each group with
probability 0.1 (at least one), alpha by exp(N(0, 1)) and beta by N(0, 1); the pool fills with mutants of the plain
ranking (alpha 1, beta 0); `BATCH` children at a time come from the same pool.
"""

from collections.abc import Callable, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from blendsearch.blend.allocation import allocate_globally
from blendsearch.blend.decoder import Decoder, keep_best
from blendsearch.blend.genome import Genome, GenomeFields
from blendsearch.pipeline.methods.method import Method
from blendsearch.pipeline.optimizers.base import (
    Candidate,
    CandidateResult,
    Optimizer,
    RandomState,
    get_random_state,
    set_random_state,
)
from blendsearch.pipeline.optimizers.evolution import TRIES
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.runs.origin import EVOLVED
from blendsearch.structure.groups import Cut, compute_cut_digest

POOL, TOURNAMENT, MUTATION_RATE = 64, 16, 0.1
BATCH = 8


class LegrState(TypedDict):
    """The state of `Legr` in a checkpoint. `pool`: losses and genes, the oldest first."""

    numpy: RandomState
    pool: list[tuple[float, list[float]]]


class Legr:
    """The optimizer. The genome's blend is log alpha, then beta, each (groups,); `decoder`'s table must hold ``l2``."""

    def __init__(self, decoder: Decoder, rng: np.random.Generator) -> None:
        self.decoder, self.rng = decoder, rng
        row = decoder.table.criteria.index("l2")
        self.norms = [np.nan_to_num(scores[row]) ** 2 for scores in decoder.table.scores]
        self.pool: list[tuple[float, list[float]]] = []

    def ask_first(self, seeds: Sequence[tuple[str, Genome]], limit: int) -> list[Candidate]:
        """Return the plain ranking, the seeds of a fork, and mutants of the plain one up to the pool's size."""
        plain = self._make_candidate(self._make_plain_genes())._replace(origin="l2 global ranking")
        found = {plain.digest: plain}
        for _, genome in seeds:
            candidate = self._make_candidate(genome.blend)
            found.setdefault(candidate.digest, candidate)
        begun = list(found.values())[:limit]
        return [
            *begun,
            *self._make_mutants(min(limit, POOL) - len(begun), set(found), lambda: self._make_plain_genes()),
        ]

    def ask(self, count: int, known: set[str]) -> list[Candidate]:
        return self._make_mutants(min(count, BATCH), known, self._select_parent)

    def tell(self, results: Sequence[CandidateResult]) -> None:
        self.pool += [(item.objectives[0], item.genome.blend.tolist()) for item in results]
        self.pool = self.pool[-POOL:]

    def ask_one(self, known: set[str]) -> Candidate | None:
        return next(iter(self.ask(1, known)), None)

    def tell_one(self, digest: str, result: CandidateResult | None) -> None:
        self.tell([] if result is None else [result])

    def serialize_genome(self, genome: Genome) -> GenomeFields:
        groups = len(self.norms)
        return {"log_alpha": genome.blend[:groups].tolist(), "beta": genome.blend[groups:].tolist()}

    def deserialize_genome(self, facts: GenomeFields) -> Genome:
        return Genome(np.array([*facts["log_alpha"], *facts["beta"]]), np.zeros(len(self.norms)), 0.0)

    def state_dict(self) -> LegrState:
        return {"numpy": get_random_state(self.rng), "pool": self.pool}

    def load_state_dict(self, state: LegrState) -> None:
        set_random_state(self.rng, state["numpy"])
        if any(len(genes) != 2 * len(self.norms) for _, genes in state["pool"]):
            raise ValueError("a genome does not have two genes for each group")
        self.pool = [(loss, genes) for loss, genes in state["pool"]]

    def cut(self, genes: NDArray[np.float64]) -> Cut:
        """Return the channels that the ranking keeps at the budget."""
        groups = len(self.norms)
        alpha, beta = np.exp(genes[:groups]), genes[groups:]
        scores = [a * norms + b * norms.std() for norms, a, b in zip(self.norms, alpha, beta, strict=True)]
        held = self.decoder
        return keep_best(scores, allocate_globally(held.oracle, held.allowed, held.compute_budget(0.0), scores))

    def _make_plain_genes(self) -> NDArray[np.float64]:
        return np.zeros(2 * len(self.norms))

    def _select_parent(self) -> NDArray[np.float64]:
        if not self.pool:
            return self._make_plain_genes()
        chosen = self.rng.choice(len(self.pool), min(TOURNAMENT, len(self.pool)), replace=False)
        return np.array(min(self.pool[number] for number in chosen)[1])

    def _make_mutants(self, count: int, known: set[str], parent: Callable[[], NDArray[np.float64]]) -> list[Candidate]:
        found: list[Candidate] = []
        taken, groups = set(known), len(self.norms)
        for _ in range(TRIES * max(0, count)):
            if len(found) == count:
                break
            genes = parent().copy()
            changed = self.rng.random(groups) < MUTATION_RATE
            changed[self.rng.integers(groups)] = True
            genes[:groups] += changed * self.rng.normal(size=groups)
            genes[groups:] += changed * self.rng.normal(size=groups)
            candidate = self._make_candidate(genes)
            if candidate.digest not in taken:
                taken.add(candidate.digest)
                found.append(candidate)
        return found

    def _make_candidate(self, genes: NDArray[np.float64]) -> Candidate:
        cut = self.cut(genes)
        return Candidate(Genome(genes, np.zeros(len(self.norms)), 0.0), cut, compute_cut_digest(cut), EVOLVED)


class LegrMethod(Method):
    """The learned ranking, which starts from the plain one instead of the baselines."""

    def make_optimizer(self, problem: Problem) -> Optimizer:
        """Make the regularized evolution."""
        return Legr(problem.decoder, np.random.default_rng([problem.config.seed, 2]))

    def make_baselines(self, problem: Problem) -> list[tuple[str, Genome]]:
        """Return none: the optimizer adds the plain ranking itself."""
        return []
