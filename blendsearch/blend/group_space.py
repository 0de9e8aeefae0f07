"""Blends chosen per group: one criterion (or the mean) of each cluster, and its calibration factor.

He et al. 2021, "Blending Pruning Criteria for CNNs", section 3.3.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from blendsearch.blend.clustering import Clusters
from blendsearch.blend.genome import ClusteredSpace, Genome, GenomeFields, check_genes, normalize_ranks
from blendsearch.criteria.table import ScoreTable


@dataclass(frozen=True, eq=False)
class GroupSpace(ClusteredSpace):
    """Space of one run, see `genome.Space`. A blend's genes are choices, then factors, both (groups, K).

    A choice is, for each cluster, 0 for the mean of its criteria or i for its i-th criterion. A factor is in [0, 1].

    Attributes
    ----------
    means: True if the choice 0 is allowed.
    """

    means: bool = True

    @cached_property
    def max_choices(self) -> NDArray[np.int64]:
        """Largest choice per group and cluster, (groups, K); zero if a group has no such cluster."""
        tops = np.zeros((self.groups, self.max_clusters), dtype=np.int64)
        for group, clusters in enumerate(self.clusters):
            for number, members in enumerate(clusters):
                tops[group, number] = len(members)
        return tops

    @property
    def min_choices(self) -> NDArray[np.int64]:
        """Smallest choice per group and cluster, (groups, K): 0 if it may be the mean or there is no cluster."""
        return np.zeros_like(self.max_choices) if self.means else np.minimum(self.max_choices, 1)

    @property
    def integers(self) -> int:
        return self.groups * self.max_clusters

    @cached_property
    def low(self) -> NDArray[np.float64]:
        return np.concatenate([self.min_choices.ravel().astype(np.float64), np.zeros(self.integers)])

    @cached_property
    def high(self) -> NDArray[np.float64]:
        return np.concatenate([self.max_choices.ravel().astype(np.float64), np.ones(self.integers)])

    @property
    def spread(self) -> NDArray[np.float64]:
        return np.concatenate([np.ones(self.integers), np.full(self.integers, 0.2)])

    def get_choices(self, genome: Genome) -> NDArray[np.int64]:
        """Return the genome's choices, (groups, K)."""
        return genome.blend[: self.integers].astype(np.int64).reshape(self.max_choices.shape)

    def get_factors(self, genome: Genome) -> NDArray[np.float64]:
        """Return the genome's calibration factors, (groups, K)."""
        return genome.blend[self.integers :].reshape(self.max_choices.shape)

    def make_equal_blend(self) -> Genome:
        """Make the equal blend of all criteria in the uniform allocation."""
        return self.make_genome(np.zeros_like(self.max_choices), self._make_equal_factors())

    def make_single_criterion(self, criterion: int) -> Genome:
        """Make the blend of one criterion (by row number) in the uniform allocation; the equal blend if it is left
        out.
        """
        choice, factor = np.zeros_like(self.max_choices), self._make_equal_factors()
        for group, clusters in enumerate(self.clusters):
            for number, members in enumerate(clusters):
                if criterion in members:
                    factor[group] = 0.0
                    factor[group, number] = 1.0
                    choice[group, number] = members.index(criterion) + 1
        return self.make_genome(choice, factor)

    def sample(self, rng: np.random.Generator) -> Genome:
        """Sample choices, factors and target uniformly, and shares normally around the uniform allocation."""
        choice = rng.integers(self.min_choices, self.max_choices + 1)
        factor = rng.random(self.max_choices.shape)
        share = np.clip(rng.normal(0, 0.15, self.groups), -1, 1)
        drawn = self.make_genome(choice, factor)._replace(share=share, target=float(rng.random()))
        return drawn._replace(transform=self.sample_transform(rng))

    def make_genome(self, choice: NDArray[np.int64], factor: NDArray[np.float64]) -> Genome:
        """Make the genome of these choices and factors, (groups, K) each, in the uniform allocation."""
        blend = np.concatenate([choice.ravel().astype(np.float64), factor.ravel()])
        return self.make_uniform_genome(blend)

    def compute_weights(self, genome: Genome) -> NDArray[np.float64]:
        """Assign each cluster's factor to its chosen criterion, or evenly to all of them: (groups, criteria)."""
        found = np.zeros((self.groups, len(self.criteria)))
        choice, factor = self.get_choices(genome), self.get_factors(genome)
        for group, clusters in enumerate(self.clusters):
            for number, members in enumerate(clusters):
                chosen = choice[group, number]
                if chosen == 0:
                    found[group, list(members)] = factor[group, number] / len(members)
                else:
                    found[group, members[chosen - 1]] = factor[group, number]
        return found

    def describe(self, genome: Genome) -> GenomeFields:
        return {
            "choice": self.get_choices(genome).tolist(),
            "factor": self.get_factors(genome).tolist(),
            "share": genome.share.tolist(),
            "target": float(genome.target),
            **self.describe_transform(genome),
        }

    def parse_genome(self, facts: GenomeFields) -> Genome:
        found = self.make_genome(np.asarray(facts["choice"]), np.asarray(facts["factor"], dtype=np.float64))
        share = np.asarray(facts["share"], dtype=np.float64)
        transform = self.parse_transform(facts)
        genome = found._replace(share=share, target=float(facts["target"]), transform=transform)
        check_genes(self, genome.flatten())
        return genome

    def _make_equal_factors(self) -> NDArray[np.float64]:
        """Compute the factors for which all criteria have equal weight."""
        sizes = self.max_choices.astype(np.float64)
        return np.asarray(sizes / np.maximum(sizes.max(axis=1, keepdims=True), 1.0))


def make_group_space(table: ScoreTable, clusters: Clusters, means: bool = True) -> GroupSpace:
    """Make the space over a score table and its clusters (`clustering.cluster_groups`)."""
    return GroupSpace(table.criteria, tuple(normalize_ranks(scores) for scores in table.scores), clusters, means)
