"""Search guided by a surrogate: what was judged so far says which of many drawn genomes are worth judging.

For one budget, where blend and shares are numbers. Most of what a blend is worth can be told from its weights alone
(on ResNet-56, from 87 judged networks the losses of others correlate with 0.89), so a model of the losses sees from a
few dozen evaluations where to go. Thompson 1933, "On the likelihood that one unknown probability exceeds another":
each candidate is the best of the pool in one draw of what the losses may be, so that a generation both uses what is
known and tries what is not. The pool stands around the best known genomes (a trust region, as in Eriksson et al. 2019,
"Scalable Global Optimization via Local Bayesian Optimization").

Stages as in `search.cma`: the baselines; every criterion in the best one's allocation; the guided search.

One at a time (the steady schedule): whoever is free before a stage has come back is guided by what is known already.
What is still out is no hindrance to draws: Kandasamy et al. 2018, "Parallelised Bayesian Optimisation via Thompson
Sampling".
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blendsearch.blend.genome import Genome, compute_bounds, unflatten_genome
from blendsearch.blend.network_space import NetworkSpace
from blendsearch.pipeline.optimizers.base import Candidate, CandidateResult
from blendsearch.pipeline.optimizers.baselines import vary_criteria
from blendsearch.pipeline.optimizers.evolution import TRIES, merge_duplicate_seeds
from blendsearch.pipeline.optimizers.gaussian_process import Features, GaussianProcess
from blendsearch.runs.origin import EVOLVED
from blendsearch.structure.groups import Cut, compute_cut_digest

POOL = 600
"""Genomes drawn for each generation, of which it takes its candidates; three for each of them, if that is more."""
PARENTS = 8
"""The genomes around which they are drawn: the best ones, by what the model makes of their losses."""
STEPS = (0.05, 0.3)
"""Least and largest standard deviation of a draw around its parents, in the units of genes."""
FLIPS = (0, 1, 3)
"""How many layers, on average, a draw decomposes that its parent leaves whole, or the other way round."""
FLIP_DISTANCE = 0.15
"""How far that takes two genomes apart for the model, in the units of a share."""
MAX_MODEL_POINTS = 400
"""The model learns from so many judged genomes, the best and the latest: it is cubic in them."""

LOOKAHEAD = 4
"""One at a time, so many candidates are taken from a model before it is fitted again."""
MIN_MODEL_POINTS = 4
"""Judged genomes that a model needs; before that, candidates are drawn at random."""

Vector = NDArray[np.float64]


class Surrogate:
    """The optimiser. `size` is how many candidates a generation has; all randomness comes from `rng`.

    Only the first objective counts. `evolves_widths`: whether shares are genes too.
    """

    def __init__(
        self,
        space: NetworkSpace,
        decode: Callable[[Genome], Cut],
        size: int,
        rng: np.random.Generator,
        evolves_widths: bool = True,
    ) -> None:
        self.space, self.decode, self.size, self.rng = space, decode, size, rng
        self.evolves_widths = evolves_widths
        self.results: list[tuple[float, list[float]]] = []
        self.has_varied_criteria = False
        self.model = GaussianProcess()
        # one at a time: what is to be asked next, and which baselines are out
        self._queue: deque[Candidate] = deque()
        self._pending: set[str] = set()

    def ask_first(self, seeds: Sequence[tuple[str, Genome]], limit: int) -> list[Candidate]:
        """The baselines alone; those with the same cut are one candidate with the names of all."""
        found = merge_duplicate_seeds(seeds, self.decode, limit)
        self._pending = set(found)
        return list(found.values())

    def ask(self, count: int, known: set[str]) -> list[Candidate]:
        if not self.results:  # no baseline could be judged: begin anywhere
            return self._collect_new(
                [self.space.sample(self.rng).flatten() for _ in range(TRIES * count)], count, known
            )
        if not self.has_varied_criteria:
            self.has_varied_criteria = True
            if fresh := self._vary_criteria(known)[:count]:
                return fresh
        return self._ask_model(min(count, self.size), known)

    def tell(self, results: Sequence[CandidateResult]) -> None:
        self.has_varied_criteria |= any(item.origin == EVOLVED for item in results)  # a fork knows more than baselines
        self._learn(results)

    def _learn(self, results: Sequence[CandidateResult]) -> None:
        self.results += [(item.objectives[0], item.genome.flatten()) for item in results]

    def ask_one(self, known: set[str]) -> Candidate | None:
        if not self.has_varied_criteria and not self._pending and self.results:
            self.has_varied_criteria, self._queue = True, deque(self._vary_criteria(known))
        for refilled in (False, True):
            while self._queue:
                candidate = self._queue.popleft()
                if candidate.digest not in known:
                    return candidate
            if not refilled and len(self.results) < MIN_MODEL_POINTS:
                drawn = [self.space.sample(self.rng).flatten() for _ in range(TRIES)]
                self._queue.extend(self._collect_new(drawn, 1, known))
            elif not refilled:
                self._queue.extend(self._ask_model(LOOKAHEAD, known))
        return None

    def tell_one(self, digest: str, result: CandidateResult | None) -> None:
        if result is not None:
            self.has_varied_criteria |= digest in self._pending and result.origin == EVOLVED
            self._learn([result])
        self._pending.discard(digest)

    def serialize_genome(self, genome: Genome) -> dict[str, Any]:
        return self.space.describe(genome)

    def deserialize_genome(self, facts: Mapping[str, Any]) -> Genome:
        return self.space.parse_genome(facts)

    def state_dict(self) -> dict[str, Any]:
        """Everything that exact resumption needs, as JSON values."""
        return {
            "numpy": self.rng.bit_generator.state,
            "judged": self.results,
            "crossed": self.has_varied_criteria,
            "model": self.model.theta.tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rng.bit_generator.state = state["numpy"]
        self.results = [(loss, genes) for loss, genes in state["judged"]]
        self.has_varied_criteria = state["crossed"]
        self.model = GaussianProcess(np.array(state["model"]))

    def _vary_criteria(self, known: set[str]) -> list[Candidate]:
        """Every criterion, and the equal blend, in the allocation of the best so far; those not `known`."""
        every = vary_criteria(self.space, unflatten_genome(self.space, min(self.results)[1]))
        found = merge_duplicate_seeds(every, self.decode, len(every))
        return [candidate for digest, candidate in found.items() if digest not in known]

    def _ask_model(self, count: int, known: set[str]) -> list[Candidate]:
        """The best of the pool in one draw of the model each, then in further draws for those that are known."""
        losses, genes = self._select_model_points()
        self.model.fit(self._compute_features(genes), np.log(losses))
        smooth = self.model.predict_mean(self._compute_features(genes))
        parents = genes[np.argsort(smooth, kind="stable")[:PARENTS]]
        pool = self._sample_pool(parents, max(POOL, 3 * count))
        draws = self.model.sample_posterior(self._compute_features(pool), 2 * count, self.rng)
        ranked = np.argsort(draws, axis=1, kind="stable")[:, :TRIES]
        # every draw's first, then every draw's second ...
        order = list(dict.fromkeys(ranked.T.ravel().tolist()))
        return self._collect_new([pool[place].tolist() for place in order], count, known)

    def _select_model_points(self) -> tuple[Vector, NDArray[np.float64]]:
        """Losses, (n,), and genes, (n, genes), that the model learns from.

        Losses far above the best are cut off: how bad a bad network is says little about which good one is best.
        """
        chosen = self.results
        if len(chosen) > MAX_MODEL_POINTS:
            best = {id(item) for item in sorted(chosen)[: MAX_MODEL_POINTS // 2]}
            latest = {id(item) for item in chosen[-MAX_MODEL_POINTS // 2 :]}
            chosen = [item for item in chosen if id(item) in best | latest]
        losses = np.maximum([loss for loss, _ in chosen], 1e-9)
        least, middle = losses.min(), np.median(losses)
        return np.minimum(losses, middle * (middle / least)), np.array([genes for _, genes in chosen])

    def _compute_features(self, genes: NDArray[np.float64]) -> Features:
        """What the model sees of genomes (n, genes): the weights of the blend, and the shares about their mean.

        With the shares stand the decomposed layers.
        """
        blend, shares, transform, _ = np.split(
            genes, np.cumsum([len(self.space.low), self.space.groups, self.space.layers]), axis=1
        )
        widths = shares - shares.mean(axis=1, keepdims=True)
        return self.space.compute_coordinates(blend), np.hstack([widths, FLIP_DISTANCE * (transform > 0)])

    def _sample_pool(self, parents: NDArray[np.float64], size: int) -> NDArray[np.float64]:
        """Draws around the parents, (size, genes): blend and shares of one or of two of them, some genes changed."""
        rng, genes = self.rng, parents.shape[1]
        blend, layers = len(self.space.low), self.space.layers
        one, other = (rng.integers(len(parents), size=size) for _ in range(2))
        pool = parents[one].copy()
        crossing = rng.random(size) < 0.5
        pool[crossing, blend:] = parents[other[crossing], blend:]
        step = np.exp(rng.uniform(np.log(STEPS[0]), np.log(STEPS[1]), size=(size, 1)))
        changed = rng.random((size, genes)) < rng.choice([0.1, 0.3, 1.0], size=(size, 1))
        # a gene that says which layers are decomposed changes by its sign alone
        shares, rest = np.full(self.space.groups, 0.5 * self.evolves_widths), np.zeros(layers + 1)
        scale = np.concatenate([np.full(blend, 1.0), shares, rest])
        pool += changed * step * scale * rng.normal(size=pool.shape)
        if layers:
            flipped = rng.random((size, layers)) < rng.choice(FLIPS, size=(size, 1)) / layers
            pool[:, -1 - layers : -1] *= np.where(flipped, -1, 1)
        return np.clip(pool, *compute_bounds(self.space))

    def _collect_new(self, vectors: Sequence[list[float]], count: int, known: set[str]) -> list[Candidate]:
        found: dict[str, Candidate] = {}
        for vector in vectors:
            if len(found) == count:
                break
            genome = unflatten_genome(self.space, vector)
            cut = self.decode(genome)
            digest = compute_cut_digest(cut)
            if digest not in known:
                found.setdefault(digest, Candidate(genome, cut, digest, EVOLVED))
        return list(found.values())
