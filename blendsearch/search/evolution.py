"""NSGA-II over genomes, with DEAP's operators on flat lists of genes.

Deb et al. 2002, "A Fast and Elitist Multiobjective Genetic Algorithm". Generational: the offspring of generation n + 1
depend on nothing but the state after generation n, so a resumed search asks for the very same cuts.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from deap import base, tools
from numpy.typing import NDArray

from blendsearch.blend.genome import Genome, Space
from blendsearch.structure.groups import Cut, cut_digest

SPREAD_OF_CROSSOVER = 15.0
"""Deb's distribution index of simulated binary crossover: larger keeps children nearer their parents."""
SPREAD_OF_MUTATION = 10.0
"""The same of polynomial mutation."""
TRIES = 20
"""How often a child that repeats a known cut is mutated on before a random genome takes its place."""


class Candidate(NamedTuple):
    """A genome and its cut, not yet judged. `origin` is ``evolved``, or the name of the baseline it is."""

    genome: Genome
    cut: Cut
    digest: str
    origin: str


class Judged(NamedTuple):
    """A candidate's genome with its objectives, all minimised and finite."""

    genome: Genome
    objectives: tuple[float, ...]
    digest: str


class Minimised(base.Fitness):  # type: ignore[misc]
    weights = (-1.0, -1.0)


class Individual(list[float]):
    """Flat genes: choices, factors, shares, target."""

    def __init__(self, genes: Sequence[float], digest: str) -> None:
        super().__init__(genes)
        self.digest = digest
        self.fitness = Minimised()


class Evolution:
    """A population and the random streams that drive it.

    `decode` turns a genome into a cut. `crossover` is the probability that a pair mates, `mutation` that of each gene
    to be redrawn. DEAP draws from Python's global random state: it is put aside while ours is used, and put back after.
    """

    def __init__(
        self,
        space: Space,
        decode: Callable[[Genome], Cut],
        size: int,
        crossover: float,
        mutation: float,
        rng: np.random.Generator,
    ) -> None:
        self.space, self.decode, self.size = space, decode, size
        self.crossover, self.mutation, self.rng = crossover, mutation, rng
        self.genes = Genes(space)
        self.population: list[Individual] = []
        self._stream = random.Random(int(rng.integers(2**63))).getstate()

    def first(self, seeds: Sequence[tuple[str, Genome]], count: int) -> list[Candidate]:
        """The first generation: the seeds, then random genomes up to `count`; no two cuts are equal.

        Seeds that decode to the same cut are one candidate with the names of all.
        """
        found: dict[str, Candidate] = {}
        for name, genome in seeds:
            cut = self.decode(genome)
            digest = cut_digest(cut)
            twin = found.get(digest)
            if twin is not None:
                found[digest] = twin._replace(origin=f"{twin.origin} = {name}")
            elif len(found) < count:
                found[digest] = Candidate(genome, cut, digest, name)
        while len(found) < count:
            fresh = self._random(set(found))
            if fresh is None:
                break
            found[fresh.digest] = fresh
        return list(found.values())

    def ask(self, count: int, known: set[str]) -> list[Candidate]:
        """Up to `count` children with cuts neither `known` nor asked twice; fewer where the space is used up."""
        asked: list[Candidate] = []
        taken = set(known)
        with self._drawing():
            while len(asked) < count:
                before = len(asked)
                parents = tools.selTournamentDCD(self.population, len(self.population))
                for one, other in zip(parents[::2], parents[1::2], strict=True):
                    for genes in self._children(one, other):
                        child = self._fresh(genes, taken)
                        if child is not None and len(asked) < count:
                            asked.append(child)
                            taken.add(child.digest)
                if len(asked) == before:
                    break
        return asked

    def tell(self, judged: Sequence[Judged]) -> None:
        """Select the next population from the present one and `judged`."""
        newcomers = []
        for item in judged:
            individual = Individual(self.genes.flat(item.genome), item.digest)
            individual.fitness.values = item.objectives
            newcomers.append(individual)
        pool = self.population + newcomers
        size = min(self.size, len(pool) - len(pool) % 4)
        self.population = tools.selNSGA2(pool, size, nd="log") if size else pool

    def state(self) -> dict[str, Any]:
        """Everything that exact resumption needs, as JSON values."""
        version, words, gauss = self._stream
        return {
            "random": [version, list(words), gauss],
            "numpy": self.rng.bit_generator.state,
            "population": [
                {
                    "genes": list(individual),
                    "digest": individual.digest,
                    "objectives": list(individual.fitness.values),
                    # the distances that selection used: worked out again among the survivors they would differ
                    "crowding": _crowding(individual),
                }
                for individual in self.population
            ],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        version, words, gauss = state["random"]
        self._stream = (version, tuple(words), gauss)
        self.rng.bit_generator.state = state["numpy"]
        self.population = []
        for item in state["population"]:
            individual = Individual(item["genes"], item["digest"])
            individual.fitness.values = tuple(item["objectives"])
            crowding = item["crowding"]
            individual.fitness.crowding_dist = float("inf") if crowding is None else crowding
            self.population.append(individual)

    def _children(self, one: Individual, other: Individual) -> tuple[list[float], list[float]]:
        first, second = list(one), list(other)
        if random.random() < self.crossover:
            self.genes.mate(first, second)
        self.genes.mutate(first, self.mutation)
        self.genes.mutate(second, self.mutation)
        return first, second

    def _fresh(self, genes: list[float], taken: set[str]) -> Candidate | None:
        for _ in range(TRIES):
            genome = self.genes.genome(genes)
            cut = self.decode(genome)
            digest = cut_digest(cut)
            if digest not in taken:
                return Candidate(genome, cut, digest, "evolved")
            self.genes.mutate(genes, self.mutation)
        return self._random(taken)

    def _random(self, taken: set[str]) -> Candidate | None:
        for _ in range(TRIES):
            genome = self.space.random(self.rng)
            cut = self.decode(genome)
            digest = cut_digest(cut)
            if digest not in taken:
                return Candidate(genome, cut, digest, "evolved")
        return None

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """Inside, Python's global random state is this evolution's own."""
        outside = random.getstate()
        random.setstate(self._stream)
        try:
            yield
        finally:
            self._stream = random.getstate()
            random.setstate(outside)


class Genes:
    """Genomes as flat lists, and DEAP's operators on them."""

    def __init__(self, space: Space) -> None:
        self.shape = (space.groups, space.width)
        self.tops = space.choices.ravel().tolist()
        numbers = len(self.tops)
        self.low = [0.0] * numbers + [-1.0] * space.groups + [0.0]
        self.high = [1.0] * numbers + [1.0] * space.groups + [1.0]

    def flat(self, genome: Genome) -> list[float]:
        numbers = [*genome.factor.ravel().tolist(), *genome.share.tolist(), float(genome.target)]
        return [*genome.choice.ravel().tolist(), *numbers]

    def genome(self, genes: Sequence[float]) -> Genome:
        split = len(self.tops)
        choice: NDArray[np.int64] = np.array(genes[:split], dtype=np.int64).reshape(self.shape)
        numbers = np.array(genes[split:], dtype=np.float64)
        return Genome(choice, numbers[:split].reshape(self.shape), numbers[split:-1], float(numbers[-1]))

    def mate(self, one: list[float], other: list[float]) -> None:
        split = len(self.tops)
        a, b = tools.cxUniform(one[:split], other[:split], 0.5)
        c, d = tools.cxSimulatedBinaryBounded(one[split:], other[split:], SPREAD_OF_CROSSOVER, self.low, self.high)
        one[:], other[:] = [*a, *c], [*b, *d]

    def mutate(self, genes: list[float], probability: float) -> None:
        split = len(self.tops)
        (choices,) = tools.mutUniformInt(genes[:split], [0] * split, self.tops, probability)
        (numbers,) = tools.mutPolynomialBounded(genes[split:], SPREAD_OF_MUTATION, self.low, self.high, probability)
        genes[:] = [*choices, *numbers]


def _crowding(individual: Individual) -> float | None:
    distance = getattr(individual.fitness, "crowding_dist", 0.0)
    return None if distance == float("inf") else float(distance)
