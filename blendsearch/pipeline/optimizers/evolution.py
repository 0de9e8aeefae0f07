"""Evolution over genomes: a population, DEAP's operators on flat lists of genes, and the streams that drive them.

Generational: the offspring of generation n + 1 depend on nothing but the state after generation n, so a resumed search
asks for the very same cuts. Steady: each child is made of the population as it stands, and competes with it as soon as
it is judged (Durillo et al. 2009, "On the Effect of the Steady-State Selection Scheme in Multi-Objective Genetic
Algorithms"). What is crossed, mutated and selected how, `Rules` say: `nsga2.py`, `cfbs.py`.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol

import numpy as np
from deap import base, tools

from blendsearch.blend.genome import Genome, Space, of_flat
from blendsearch.pipeline.optimizers.base import Candidate, Judged
from blendsearch.runs.origin import EVOLVED
from blendsearch.structure.groups import Cut, cut_digest

TRIES = 20
"""How often a child that repeats a known cut is mutated on before a random genome takes its place."""


FEWEST = 4
"""Individuals that a population needs before it has children; before that, candidates are drawn at random."""


@cache
def minimised(objectives: int) -> type:
    """The DEAP fitness of so many objectives, all minimised."""
    return type("Minimised", (base.Fitness,), {"weights": (-1.0,) * objectives})


class Individual(list[float]):
    """Flat genes, as `Genome.flat` lays them out."""

    def __init__(self, genes: Sequence[float], digest: str, objectives: tuple[float, ...]) -> None:
        super().__init__(genes)
        self.digest = digest
        self.fitness: Any = minimised(len(objectives))()
        self.fitness.values = objectives


class Rules(Protocol):
    """How flat genes are varied and selected. Draws come from Python's global stream.

    Attributes
    ----------
    seeded: whether the baselines join the population, or are only judged beside it.
    """

    seeded: bool

    def mate(self, one: list[float], other: list[float]) -> None:
        """Cross two lists of genes in place."""

    def mutate(self, genes: list[float]) -> None:
        """Mutate genes in place."""

    def parents(self, population: list[Individual], count: int) -> list[Individual]:
        """`count` parents or one pair fewer, to be mated two by two; `count` is even."""

    def survivors(self, pool: list[Individual], size: int) -> list[Individual]:
        """The next population out of the present one and its children."""


class Evolution:
    """A population and the random streams that drive it.

    `decode` turns a genome into a cut. `crossover` is the probability that a pair mates. DEAP draws from Python's
    global random state: it is put aside while ours is used, and put back after.
    """

    def __init__(
        self,
        space: Space,
        decode: Callable[[Genome], Cut],
        rules: Rules,
        size: int,
        crossover: float,
        rng: np.random.Generator,
    ) -> None:
        self.space, self.decode, self.rules, self.size = space, decode, rules, size
        self.crossover, self.rng = crossover, rng
        self.population: list[Individual] = []
        self._stream = random.Random(int(rng.integers(2**63))).getstate()

    def first(self, seeds: Sequence[tuple[str, Genome]], limit: int) -> list[Candidate]:
        """The first generation, of at most `limit`: the seeds, then random genomes; no two cuts are equal.

        Seeds that decode to the same cut are one candidate with the names of all. Where seeds join the population, a
        quarter of newcomers stands beside them, so that evolution has more than what was known before.
        """
        newcomers = self.size // 4 if self.rules.seeded else self.size
        count = min(limit, max(self.size, len(seeds) + newcomers))
        found = distinct(seeds, self.decode, count)
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
            while len(asked) < count and len(self.population) >= FEWEST:
                before = len(asked)
                parents = self.rules.parents(self.population, len(self.population) // 2 * 2)
                for one, other in zip(parents[::2], parents[1::2], strict=True):
                    for genes in self._children(one, other):
                        child = self._fresh(genes, taken)
                        if child is not None and len(asked) < count:
                            asked.append(child)
                            taken.add(child.digest)
                if len(asked) == before:
                    break
            while len(asked) < count and len(self.population) < FEWEST:
                fresh = self._random(taken)
                if fresh is None:
                    break
                asked.append(fresh)
                taken.add(fresh.digest)
        return asked

    def tell(self, judged: Sequence[Judged]) -> None:
        """Select the next population from the present one and `judged`."""
        newcomers = []
        for item in judged:
            if item.origin == EVOLVED or self.rules.seeded:
                newcomers.append(Individual(item.genome.flat(), item.digest, item.objectives))
        with self._drawing():
            self.population = self.rules.survivors(self.population + newcomers, self.size)

    def ask_one(self, known: set[str]) -> Candidate | None:
        if len(self.population) < FEWEST:
            return self._random(known)
        with self._drawing():
            one, other = self.rules.parents(self.population, 2)
            return self._fresh(self._children(one, other)[0], known)

    def tell_one(self, digest: str, judged: Judged | None) -> None:
        if judged is not None:
            self.tell([judged])

    def described(self, genome: Genome) -> dict[str, Any]:
        return self.space.described(genome)

    def of_described(self, facts: Mapping[str, Any]) -> Genome:
        return self.space.of_described(facts)

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
            individual = Individual(item["genes"], item["digest"], tuple(item["objectives"]))
            crowding = item["crowding"]
            individual.fitness.crowding_dist = float("inf") if crowding is None else crowding
            self.population.append(individual)

    def _children(self, one: Individual, other: Individual) -> tuple[list[float], list[float]]:
        first, second = list(one), list(other)
        if random.random() < self.crossover:
            self.rules.mate(first, second)
        self.rules.mutate(first)
        self.rules.mutate(second)
        return first, second

    def _fresh(self, genes: list[float], taken: set[str]) -> Candidate | None:
        for _ in range(TRIES):
            genome = of_flat(self.space, genes)
            cut = self.decode(genome)
            digest = cut_digest(cut)
            if digest not in taken:
                return Candidate(genome, cut, digest, EVOLVED)
            self.rules.mutate(genes)
        return self._random(taken)

    def _random(self, taken: set[str]) -> Candidate | None:
        for _ in range(TRIES):
            genome = self.space.random(self.rng)
            cut = self.decode(genome)
            digest = cut_digest(cut)
            if digest not in taken:
                return Candidate(genome, cut, digest, EVOLVED)
        return None

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """Inside, Python's global random state is this evolution's own."""
        outside, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002
        random.setstate(self._stream)
        np.random.seed(random.getrandbits(32))  # noqa: NPY002 - NSGA-III shuffles its niches with NumPy's global stream
        try:
            yield
        finally:
            self._stream = random.getstate()
            random.setstate(outside)
            np.random.set_state(arrays)  # noqa: NPY002


def distinct(seeds: Sequence[tuple[str, Genome]], decode: Callable[[Genome], Cut], count: int) -> dict[str, Candidate]:
    """Up to `count` of the named `seeds` by digest; those with the same cut are one, with the names of all."""
    found: dict[str, Candidate] = {}
    for name, genome in seeds:
        cut = decode(genome)
        digest = cut_digest(cut)
        twin = found.get(digest)
        if twin is not None:
            names = [item for item in (twin.origin, name) if item != EVOLVED] or [EVOLVED]
            found[digest] = twin._replace(origin=" = ".join(names))
        elif len(found) < count:
            found[digest] = Candidate(genome, cut, digest, name)
    return found


def redrawn(genes: list[float], bottoms: list[int], tops: list[int], probability: float) -> list[float]:
    """`genes`, whole numbers, each with `probability` drawn anew between its bottom and its top, both included."""
    (found,) = tools.mutUniformInt(list(genes), bottoms, tops, probability)
    return [float(gene) for gene in found]


def _crowding(individual: Individual) -> float | None:
    distance = getattr(individual.fitness, "crowding_dist", 0.0)
    return None if distance == float("inf") else float(distance)
