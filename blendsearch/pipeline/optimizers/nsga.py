"""NSGA-II and NSGA-III over the genes of a space, shares and target.

Deb et al. 2002, "A Fast and Elitist Multiobjective Genetic Algorithm". Whole numbers are crossed uniformly and redrawn;
the others take simulated binary crossover and polynomial mutation.
"""

import random

from deap import tools

from blendsearch.blend.genome import Space, compute_bounds
from blendsearch.pipeline.optimizers.evolution import Individual, redraw_integers

CROSSOVER_ETA = 15.0
"""Deb's distribution index of simulated binary crossover: larger values keep children nearer to their parents."""
MUTATION_ETA = 10.0
"""The distribution index of polynomial mutation."""


class Nsga2:
    """Operators of `Evolution`; `mutation` is the probability that a gene is redrawn."""

    includes_seeds = True

    def __init__(self, space: Space, mutation: float) -> None:
        self.mutation, self.integers = mutation, space.integers
        self.integer_low, self.integer_high = (
            space.low[: self.integers].astype(int),
            space.high[: self.integers].astype(int),
        )
        self.low, self.high = (side[self.integers :].tolist() for side in compute_bounds(space))

    def mate(self, one: list[float], other: list[float]) -> None:
        split = self.integers
        a, b = tools.cxUniform(one[:split], other[:split], 0.5)
        c, d = tools.cxSimulatedBinaryBounded(one[split:], other[split:], CROSSOVER_ETA, self.low, self.high)
        one[:], other[:] = [*a, *c], [*b, *d]

    def mutate(self, genes: list[float]) -> None:
        split = self.integers
        choices = redraw_integers(genes[:split], self.integer_low.tolist(), self.integer_high.tolist(), self.mutation)
        (numbers,) = tools.mutPolynomialBounded(genes[split:], MUTATION_ETA, self.low, self.high, self.mutation)
        genes[:] = [*choices, *numbers]

    def select_parents(self, population: list[Individual], count: int) -> list[Individual]:
        # four at a time: a tournament takes its pairs from two shufflings of the population
        chosen: list[Individual] = tools.selTournamentDCD(population, max(4, count - count % 4))
        return chosen[:count]

    def select_survivors(self, pool: list[Individual], size: int) -> list[Individual]:
        chosen: list[Individual] = tools.selNSGA2(pool, min(size, len(pool)), nd="log") if pool else pool
        return chosen


class Nsga3(Nsga2):
    """The same genes for three or more objectives, where crowding distances no longer separate neighbours.

    Deb and Jain 2014, "An Evolutionary Many-Objective Optimization Algorithm Using Reference-Point-Based Nondominated
    Sorting": survivors are spread over reference directions, parents drawn at random.
    """

    def __init__(self, space: Space, mutation: float, objectives: int, size: int) -> None:
        super().__init__(space, mutation)
        divisions = 1
        while len(tools.uniform_reference_points(objectives, divisions)) < size:
            divisions += 1
        self.directions = tools.uniform_reference_points(objectives, divisions)

    def select_parents(self, population: list[Individual], count: int) -> list[Individual]:
        return random.sample(population, count)

    def select_survivors(self, pool: list[Individual], size: int) -> list[Individual]:
        chosen: list[Individual] = tools.selNSGA3(pool, min(size, len(pool)), self.directions, nd="log")
        return chosen
