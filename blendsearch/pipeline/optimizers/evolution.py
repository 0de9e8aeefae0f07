"""Evolution over genomes: a population, DEAP's operators on flat lists of genes, and the streams that drive them.

Generational: the offspring of generation n + 1 depend only on the state after generation n, so a resumed search
proposes the same cuts. Steady: each child comes from the present population, and competes with it as soon as it is
evaluated (Durillo et al. 2009, "On the Effect of the Steady-State Selection Scheme in Multi-Objective Genetic
Algorithms"). `Operators` define crossover, mutation and selection.
"""

import random
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol, TypedDict

import numpy as np
from deap import base, tools

from blendsearch.blend.genome import Genome, GenomeFields, Space, check_genes, unflatten_genome
from blendsearch.pipeline.optimizers.base import (
    Candidate,
    CandidateResult,
    RandomState,
    get_random_state,
    set_random_state,
)
from blendsearch.runs.origin import EVOLVED, Origin
from blendsearch.structure.groups import Cut, compute_cut_digest

TRIES = 20
"""Further mutations of a child that repeats a known cut, before a random genome replaces it."""

LONG_SEARCH = 1_000
"""Evaluations after which known cuts are so frequent that optimizers move away from them faster.

Each known cut costs a decoding for nothing, and a converged optimizer draws ever more of them: of a ResNet-20, CMA-ES
up to 7.5 per evaluation. In shorter searches, CMA-ES restarts where no draw is new.
"""

FIRST_MUTATIONS, MOST_MUTATIONS = 4, 16
"""Mutations at once of a child of a long search that repeats a known cut: they double with every further one."""

MAX_REMEMBERED = 2_000
"""Largest number of genomes whose cut's digest is remembered, so that a child equal to one is not decoded again."""

MIN_POPULATION = 4
"""Smallest population that has children; below that, candidates are drawn at random."""


@cache
def make_fitness_class(objectives: int) -> type:
    """Make the DEAP fitness class of so many objectives, all minimized."""
    return type("Minimised", (base.Fitness,), {"weights": (-1.0,) * objectives})


class Individual(list[float]):
    """Flat genes, in the order of `Genome.flatten`."""

    def __init__(self, genes: Sequence[float], digest: str, objectives: tuple[float, ...]) -> None:
        super().__init__(genes)
        self.digest = digest
        self.fitness: Any = make_fitness_class(len(objectives))()
        self.fitness.values = objectives


class Operators(Protocol):
    """Variation and selection of flat genes. Draws come from Python's global stream.

    Attributes
    ----------
    includes_seeds: the baselines join the population; else they are only evaluated beside it.
    """

    includes_seeds: bool

    def mate(self, one: list[float], other: list[float]) -> None:
        """Cross two lists of genes in place."""

    def mutate(self, genes: list[float]) -> None:
        """Mutate genes in place."""

    def select_parents(self, population: list[Individual], count: int) -> list[Individual]:
        """Select `count` parents or one pair fewer, to be mated two by two; `count` is even."""

    def select_survivors(self, pool: list[Individual], size: int) -> list[Individual]:
        """Select the next population from the present one and its children."""


class IndividualState(TypedDict):
    """An individual in a checkpoint. `crowding` is its crowding distance; None if infinite."""

    genes: list[float]
    digest: str
    objectives: list[float]
    crowding: float | None


class EvolutionState(TypedDict):
    """The state of `Evolution` in a checkpoint. `random` is the version, words and next normal of Python's stream."""

    random: tuple[int, list[int], float | None]
    numpy: RandomState
    population: list[IndividualState]


class Evolution:
    """A population and the random streams that drive it.

    `decode` turns a genome into a cut. `crossover` is the probability that a pair mates. DEAP draws from Python's
    global random state, which is saved while this one is used, and restored after.
    """

    saves_steady_state = True

    def __init__(
        self,
        space: Space,
        decode: Callable[[Genome], Cut],
        operators: Operators,
        size: int,
        crossover: float,
        rng: np.random.Generator,
    ) -> None:
        self.space, self.decode, self.operators, self.size = space, decode, operators, size
        self.crossover, self.rng = crossover, rng
        self.population: list[Individual] = []
        self._digests: dict[tuple[float, ...], str] = {}  # of the cuts of decoded genes
        self._stream = random.Random(int(rng.integers(2**63))).getstate()

    def ask_first(self, seeds: Sequence[tuple[str, Genome]], limit: int) -> list[Candidate]:
        """Return the first generation, of at most `limit`: the seeds, then random genomes; no two cuts are equal.

        Seeds that decode to the same cut are one candidate with the names of all. Where seeds join the population,
        random genomes, a quarter of its size, join it too.
        """
        newcomers = self.size // 4 if self.operators.includes_seeds else self.size
        count = min(limit, max(self.size, len(seeds) + newcomers))
        found = merge_duplicate_seeds(seeds, self.decode, count)
        while len(found) < count:
            fresh = self._sample_new(found)
            if fresh is None:
                break
            found[fresh.digest] = fresh
        return list(found.values())

    def ask(self, count: int, known: set[str]) -> list[Candidate]:
        """Return up to `count` children with new cuts, none of them `known`; fewer where the space is used up."""
        asked: dict[str, Candidate] = {}
        with self._use_own_random_state():
            while len(asked) < count and len(self.population) >= MIN_POPULATION:
                before = len(asked)
                parents = self.operators.select_parents(self.population, len(self.population) // 2 * 2)
                for one, other in zip(parents[::2], parents[1::2], strict=True):
                    for genes in self._breed(one, other):
                        child = self._mutate_until_new(genes, known, asked)
                        if child is not None and len(asked) < count:
                            asked[child.digest] = child
                if len(asked) == before:
                    break
            while len(asked) < count and len(self.population) < MIN_POPULATION:
                fresh = self._sample_new(known, asked)
                if fresh is None:
                    break
                asked[fresh.digest] = fresh
        return list(asked.values())

    def tell(self, results: Sequence[CandidateResult]) -> None:
        """Select the next population from the present one and the evaluated individuals."""
        newcomers = []
        for item in results:
            if item.origin == EVOLVED or self.operators.includes_seeds:
                newcomers.append(Individual(item.genome.flatten(), item.digest, item.objectives))
                self._remember(newcomers[-1], item.digest)
        with self._use_own_random_state():
            self.population = self.operators.select_survivors(self.population + newcomers, self.size)

    def ask_one(self, known: set[str]) -> Candidate | None:
        if len(self.population) < MIN_POPULATION:
            return self._sample_new(known)
        with self._use_own_random_state():
            one, other = self.operators.select_parents(self.population, 2)
            return self._mutate_until_new(self._breed(one, other)[0], known)

    def tell_one(self, digest: str, result: CandidateResult | None) -> None:
        if result is not None:
            self.tell([result])

    def serialize_genome(self, genome: Genome) -> GenomeFields:
        return self.space.describe(genome)

    def deserialize_genome(self, facts: GenomeFields) -> Genome:
        return self.space.parse_genome(facts)

    def state_dict(self) -> EvolutionState:
        """Return everything that exact resumption needs, as JSON values."""
        version, words, gauss = self._stream
        return {
            "random": (version, list(words), gauss),
            "numpy": get_random_state(self.rng),
            "population": [
                {
                    "genes": list(individual),
                    "digest": individual.digest,
                    "objectives": list(individual.fitness.values),
                    # the distances that selection used: worked out again among the survivors they would differ
                    "crowding": _get_crowding_distance(individual),
                }
                for individual in self.population
            ],
        }

    def load_state_dict(self, state: EvolutionState) -> None:
        """Continue from what `state_dict` returned. Raises ValueError where it does not fit the space."""
        version, words, gauss = state["random"]
        self._stream = (version, tuple(words), gauss)
        random.Random().setstate(self._stream)
        set_random_state(self.rng, state["numpy"])
        self.population = []
        for item in state["population"]:
            check_genes(self.space, item["genes"])
            if len(item["objectives"]) != len(state["population"][0]["objectives"]):
                raise ValueError("individuals have different numbers of objectives")
            individual = Individual(item["genes"], item["digest"], tuple(item["objectives"]))
            crowding = item["crowding"]
            individual.fitness.crowding_dist = float("inf") if crowding is None else crowding
            self._remember(individual, individual.digest)
            self.population.append(individual)

    def _breed(self, one: Individual, other: Individual) -> tuple[list[float], list[float]]:
        first, second = list(one), list(other)
        if random.random() < self.crossover:
            self.operators.mate(first, second)
        self.operators.mutate(first)
        self.operators.mutate(second)
        return first, second

    def _mutate_until_new(self, genes: list[float], known: set[str], asked: Container[str] = ()) -> Candidate | None:
        is_long = len(known) >= LONG_SEARCH
        mutations = FIRST_MUTATIONS if is_long else 1
        for _ in range(TRIES):
            remembered = self._digests.get(tuple(genes))
            if remembered is None or (remembered not in known and remembered not in asked):
                genome = unflatten_genome(self.space, genes)
                cut = self.decode(genome)
                digest = compute_cut_digest(cut)
                self._remember(genes, digest)
                if digest not in known and digest not in asked:
                    return Candidate(genome, cut, digest, EVOLVED)
            for _ in range(mutations):
                self.operators.mutate(genes)
            mutations = min(MOST_MUTATIONS, 2 * mutations) if is_long else 1
        return self._sample_new(known, asked)

    def _sample_new(self, known: Container[str], asked: Container[str] = ()) -> Candidate | None:
        for _ in range(TRIES):
            genome = self.space.sample(self.rng)
            cut = self.decode(genome)
            digest = compute_cut_digest(cut)
            if digest not in known and digest not in asked:
                return Candidate(genome, cut, digest, EVOLVED)
        return None

    def _remember(self, genes: Sequence[float], digest: str) -> None:
        if len(self._digests) >= MAX_REMEMBERED:
            del self._digests[next(iter(self._digests))]
        self._digests[tuple(genes)] = digest

    @contextmanager
    def _use_own_random_state(self) -> Iterator[None]:
        """Use this evolution's own state as Python's global random state inside the context."""
        outside, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002
        random.setstate(self._stream)
        np.random.seed(random.getrandbits(32))  # noqa: NPY002 - NSGA-III shuffles its niches with NumPy's global stream
        try:
            yield
        finally:
            self._stream = random.getstate()
            random.setstate(outside)
            np.random.set_state(arrays)  # noqa: NPY002


def merge_duplicate_seeds(
    seeds: Sequence[tuple[str, Genome]], decode: Callable[[Genome], Cut], count: int
) -> dict[str, Candidate]:
    """Return up to `count` of the named `seeds` by digest; those with the same cut are one, with all names."""
    found: dict[str, Candidate] = {}
    for name, genome in seeds:
        cut = decode(genome)
        digest = compute_cut_digest(cut)
        twin = found.get(digest)
        if twin is not None:
            found[digest] = twin._replace(origin=Origin.parse(twin.origin).merge(Origin.parse(name)).text)
        elif len(found) < count:
            found[digest] = Candidate(genome, cut, digest, name)
    return found


def redraw_integers(genes: list[float], low: list[int], high: list[int], probability: float) -> list[float]:
    """Redraw each of `genes`, whole numbers, with `probability` between `low` and `high`, both included."""
    (found,) = tools.mutUniformInt(list(genes), low, high, probability)
    return [float(gene) for gene in found]


def _get_crowding_distance(individual: Individual) -> float | None:
    distance = getattr(individual.fitness, "crowding_dist", 0.0)
    return None if distance == float("inf") else float(distance)
