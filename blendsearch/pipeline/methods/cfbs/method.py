"""Method ``cfbs``: the search of the paper that introduced the blending of pruning criteria.

He et al. 2021, "Blending Pruning Criteria for Convolutional Neural Networks", ICANN 2021, arXiv 2107.05033. No code was
published. From the paper: 12 criteria, clustered per layer by rank correlation with K-means, K = 3; one criterion of
each cluster, with a calibration factor in [0, 1] drawn from U[0, 1]; the blended score is the sum over clusters of
factor x score; fixed per-layer ratios; a population of 20 over 50 iterations (10 and 30 on ImageNet);
crossover 0.8, mutation 0.1, drop probability 0.05, drop ratio 0.08; fitness is the validation accuracy after 3 epochs
(SGD, momentum 0.9, weight decay 1e-4, learning rate 0.001); the top candidates are fine-tuned for 40 epochs.

Choices where the paper is silent, with the reasons:

- *Scores* are rank-normalized to [0, 1] inside a layer: raw scales differ by orders of magnitude, and the largest would
  dominate. Coupled layers (a residual stream) are one group with one blend, scored by the mean over its layers.
- *Fixed ratios*: ``budget.keep`` (one share of channels for all groups, or one per name pattern), or a budget, which
  the uniform allocation meets.
- *Selection*: parents by tournaments of 3; the best of parents and children survive. With 20 x 50 evaluations, an
  elitist selection avoids the loss of the best one.
- *Crossover*, with probability 0.8 a pair: uniform, over pairs of criterion and factor, since a factor means nothing
  without its criterion.
- *Mutation*: each gene is redrawn with probability 0.1 from its initial distribution: the criterion uniformly from its
  cluster, the factor from U[0, 1].
- *Drop*: with probability 0.05 a child loses 0.08 of its calibration factors (at least one), which become zero: the
  criterion then has no weight in that layer. No other operator removes a criterion.
- *Ties and duplicates*: with one budget, candidates of equal accuracy are ordered by their loss. A child whose cut was
  evaluated before is mutated further: no evaluation is repeated.
- *Iterations*: the first population is the first of the 50. The single criteria and the equal blend are evaluated in
  addition, at the same fidelity, as controls; they are not in the population.
- *Learning rate*: 0.001 over the 3 epochs, without Nesterov; over the 40 epochs it falls to zero by a cosine.
- *Gradient criteria* use the plain loss (temperature 1); the probe warns where the images are memorised.
- *Top candidates*: five.
"""

import random

import numpy as np
from deap import tools

from blendsearch.blend.clustering import Clusters
from blendsearch.blend.group_space import GroupSpace, make_group_space
from blendsearch.criteria.table import ScoreTable
from blendsearch.pipeline.methods.method import Method
from blendsearch.pipeline.optimizers.base import Optimizer
from blendsearch.pipeline.optimizers.evolution import Evolution, Individual, redraw_integers
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.runs.config.schema import Config
from blendsearch.runs.origin import EVOLVED
from blendsearch.runs.records import Evaluation

TOURNAMENT = 3


class Cfbs:
    """Operators of `Evolution`: one criterion per cluster and its factor, for each group; nothing else varies.

    `mutation` is the probability that a gene is redrawn; `drop` that a child loses the part `drop_ratio` of its
    factors.
    """

    includes_seeds = False

    def __init__(self, space: GroupSpace, mutation: float, drop: float, drop_ratio: float) -> None:
        self.mutation, self.drop, self.drop_ratio = mutation, drop, drop_ratio
        self.clusters = space.integers
        self.integer_low, self.integer_high = space.min_choices.ravel().tolist(), space.max_choices.ravel().tolist()

    def mate(self, one: list[float], other: list[float]) -> None:
        split, end = self.clusters, 2 * self.clusters
        pairs = [list(zip(genes[:split], genes[split:end], strict=True)) for genes in (one, other)]
        for genes, crossed in zip((one, other), tools.cxUniform(*pairs, 0.5), strict=True):
            choices, factors = zip(*crossed, strict=True)
            genes[:end] = [*choices, *factors]

    def mutate(self, genes: list[float]) -> None:
        split, end = self.clusters, 2 * self.clusters
        genes[:split] = redraw_integers(genes[:split], self.integer_low, self.integer_high, self.mutation)
        for place in range(split, end):
            if random.random() < self.mutation:
                genes[place] = random.random()
        if random.random() < self.drop:
            # only clusters with a criterion have a factor to lose
            voiced = [split + place for place, top in enumerate(self.integer_high) if top > 0]
            for place in random.sample(voiced, max(1, round(self.drop_ratio * len(voiced)))):
                genes[place] = 0.0

    def select_parents(self, population: list[Individual], count: int) -> list[Individual]:
        chosen: list[Individual] = tools.selTournament(population, count, TOURNAMENT)
        return chosen

    def select_survivors(self, pool: list[Individual], size: int) -> list[Individual]:
        chosen: list[Individual] = tools.selBest(pool, size)
        return chosen


class CfbsMethod(Method):
    """Group-wise genomes without cluster means, evolved by `Cfbs`, and ranked by the error."""

    def make_space(self, config: Config, table: ScoreTable, clusters: Clusters) -> GroupSpace:
        """Make the space of one criterion per cluster and its factor, for each group."""
        return make_group_space(table, clusters, means=False)

    def make_optimizer(self, problem: Problem) -> Optimizer:
        """Make the paper's evolutionary algorithm."""
        config, decoder, space = problem.config.search, problem.decoder, problem.decoder.space
        if not isinstance(space, GroupSpace):
            raise TypeError(f"method cfbs searches a GroupSpace, got a {type(space).__name__}")
        operators = Cfbs(space, config.mutation, config.drop, config.drop_ratio)
        rng = np.random.default_rng([problem.config.seed, 2])
        return Evolution(space, decoder.decode, operators, config.population, config.crossover, rng)

    def compute_objectives(self, problem: Problem, row: Evaluation) -> tuple[float, ...]:
        """Compute the error, and the loss, which decides between equal errors."""
        if row.loss is None or row.error is None:
            raise ValueError(f"network {row.id} was not evaluated: {row.failure}")
        return row.error, row.loss

    def is_eligible_final(self, row: Evaluation) -> bool:
        """Return whether `row` comes from the population: the paper fine-tunes no baseline."""
        return row.origin == EVOLVED
