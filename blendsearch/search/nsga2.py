"""NSGA-II over choices, factors, shares and target.

Deb et al. 2002, "A Fast and Elitist Multiobjective Genetic Algorithm". Choices are crossed uniformly and redrawn;
numbers take simulated binary crossover and polynomial mutation.
"""

from collections.abc import Sequence

import numpy as np
from deap import tools
from numpy.typing import NDArray

from blendsearch.blend.genome import Genome, Space
from blendsearch.search.evolution import Individual

SPREAD_OF_CROSSOVER = 15.0
"""Deb's distribution index of simulated binary crossover: larger keeps children nearer their parents."""
SPREAD_OF_MUTATION = 10.0
"""The same of polynomial mutation."""


class Nsga2:
    """Rules of `Evolution`; `mutation` is the probability that a gene is redrawn."""

    seeded = True

    def __init__(self, space: Space, mutation: float) -> None:
        self.mutation = mutation
        self.shape = (space.groups, space.width)
        self.bottoms = space.lowest.ravel().tolist()
        self.tops = space.choices.ravel().tolist()
        numbers = len(self.tops)
        self.low = [0.0] * numbers + [-1.0] * space.groups + [0.0]
        self.high = [1.0] * numbers + [1.0] * space.groups + [1.0]

    def flat(self, genome: Genome) -> list[float]:
        """Choices, factors, shares, target."""
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

    def mutate(self, genes: list[float]) -> None:
        split = len(self.tops)
        (choices,) = tools.mutUniformInt(genes[:split], self.bottoms, self.tops, self.mutation)
        (numbers,) = tools.mutPolynomialBounded(genes[split:], SPREAD_OF_MUTATION, self.low, self.high, self.mutation)
        genes[:] = [*choices, *numbers]

    def parents(self, population: list[Individual]) -> list[Individual]:
        chosen: list[Individual] = tools.selTournamentDCD(population, len(population))
        return chosen

    def survivors(self, pool: list[Individual], size: int) -> list[Individual]:
        size = min(size, len(pool) - len(pool) % 4)
        chosen: list[Individual] = tools.selNSGA2(pool, size, nd="log") if size else pool
        return chosen
