"""One blend for the whole network, with small deviations per group: far fewer genes than a blend per group.

A criterion that suits one layer of a network mostly suits the others too, so one set of weights serves all layers. The
deviations allow exceptions.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from blendsearch.blend.clustering import Clusters
from blendsearch.blend.genome import Genome, GenomeFields, SignedSpace, Space, check_genes, normalize_ranks
from blendsearch.criteria.table import ScoreTable

WEIGHT_SCALE = 4.0
"""Log of the factor of a criterion's weight for a weight gene of 1."""
DEVIATION_SCALE = 2.0
"""The same for a deviation gene, for the criteria of one cluster in one group."""


class BlendSpace(Space, Protocol):
    """A space with one blend for the whole network."""

    def make_blend(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Make the blend whose criteria have weights in proportion to exp(4 weights), (criteria,) in [-1, 1]."""
        ...


@dataclass(frozen=True, eq=False)
class NetworkSpace(SignedSpace):
    """Space of one run, see `genome.Space`. A blend's genes, all in [-1, 1]: a weight per criterion, then deviations.

    With `deviations`, there is one for each group and cluster, (groups, K). A criterion's weight in a group is exp(4
    weight + 2 deviation of its cluster there).
    """

    deviations: bool = True

    @property
    def genes(self) -> int:
        """Number of genes of a blend."""
        return len(self.criteria) + (self.groups * self.max_clusters if self.deviations else 0)

    @property
    def spread(self) -> NDArray[np.float64]:
        spread = np.full(self.genes, 0.15)
        spread[: len(self.criteria)] = 0.175
        return spread

    def make_equal_blend(self) -> Genome:
        """Make the equal blend of all criteria in the uniform allocation."""
        return self.make_uniform_genome(np.zeros(self.genes))

    def make_single_criterion(self, criterion: int) -> Genome:
        """Make a blend in which one criterion (by row number) has almost all weight, in the uniform allocation."""
        blend = np.zeros(self.genes)
        blend[: len(self.criteria)] = -1.0
        blend[criterion] = 1.0
        return self.make_uniform_genome(blend)

    def make_blend(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Make the blend whose criteria have weights in proportion to exp(4 weights), (criteria,) in [-1, 1]."""
        return np.concatenate([weights, np.zeros(self.genes - len(self.criteria))])

    def sample(self, rng: np.random.Generator) -> Genome:
        """Sample weights and target uniformly, deviations and shares normally around zero."""
        blend = np.clip(rng.normal(0, 0.3, self.genes), -1, 1)
        blend[: len(self.criteria)] = rng.uniform(-1, 1, len(self.criteria))
        share = np.clip(rng.normal(0, 0.15, self.groups), -1, 1)
        return Genome(blend, share, float(rng.random()), self.sample_transform(rng))

    def compute_weights(self, genome: Genome) -> NDArray[np.float64]:
        """Compute the weight of each criterion in each group, (groups, criteria), the largest 1; 0 if left out."""
        logs = np.tile(WEIGHT_SCALE * genome.blend[: len(self.criteria)], (self.groups, 1))
        deviation = np.take_along_axis(self._get_deviations(genome), np.maximum(self._cluster_numbers, 0), axis=1)
        logs = np.where(self._cluster_numbers >= 0, logs + DEVIATION_SCALE * deviation, -np.inf)
        top = logs.max(axis=1, keepdims=True)
        return np.asarray(np.exp(logs - np.where(np.isfinite(top), top, 0.0)))

    @cached_property
    def _cluster_numbers(self) -> NDArray[np.int64]:
        """Number of each criterion's cluster in each group, (groups, criteria); -1 if it is left out."""
        found = np.full((self.groups, len(self.criteria)), -1, dtype=np.int64)
        for group, clusters in enumerate(self.clusters):
            for number, members in enumerate(clusters):
                found[group, list(members)] = number
        return found

    def describe(self, genome: Genome) -> GenomeFields:
        return {
            "weight": genome.blend[: len(self.criteria)].tolist(),
            "deviation": self._get_deviations(genome).tolist(),
            "share": genome.share.tolist(),
            "target": float(genome.target),
            **self.describe_transform(genome),
        }

    def parse_genome(self, facts: GenomeFields) -> Genome:
        deviation = np.ravel(facts["deviation"]) if self.deviations else np.zeros(0)
        blend = np.concatenate([np.asarray(facts["weight"], dtype=np.float64), deviation])
        share = np.asarray(facts["share"], dtype=np.float64)
        genome = Genome(blend, share, float(facts["target"]), self.parse_transform(facts))
        check_genes(self, genome.flatten())
        return genome

    def _get_deviations(self, genome: Genome) -> NDArray[np.float64]:
        shape = (self.groups, self.max_clusters)
        return genome.blend[len(self.criteria) :].reshape(shape) if self.deviations else np.zeros(shape)


def make_network_space(table: ScoreTable, clusters: Clusters, deviations: bool = True) -> NetworkSpace:
    """Make the space over a score table and its clusters (`clustering.cluster_groups`)."""
    return NetworkSpace(table.criteria, tuple(normalize_ranks(scores) for scores in table.scores), clusters, deviations)
