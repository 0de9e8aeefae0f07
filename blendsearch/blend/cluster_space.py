"""One calibration weight per cluster of criteria, and a composition inside each cluster.

He et al. 2021, "Blending Pruning Criteria for CNNs", with one clustering for the whole network instead of one per
layer: criteria that rank channels alike share one weight, so that the search varies what makes a difference.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from blendsearch.blend.clustering import Clusters, merge_clusters
from blendsearch.blend.genome import Genome, GenomeFields, SignedSpace, check_genes, normalize_ranks
from blendsearch.blend.network_space import DEVIATION_SCALE, WEIGHT_SCALE
from blendsearch.criteria.table import ScoreTable

Members = Literal["weights", "choice", "mean"]
"""How criteria share their cluster's weight: by evolved weights, whole to the one with the largest gene, or equally."""

CLUSTER_SPREAD, MEMBER_SPREAD, DEVIATION_SPREAD = 0.175, 0.1, 0.15


@dataclass(frozen=True, eq=False)
class ClusterSpace(SignedSpace):
    """Space of one run, see `genome.Space`. All genes of a blend are in [-1, 1].

    They are a weight per cluster of the network (K), a gene per criterion, and with `deviations` one per group and
    cluster, (groups, K). The weight of a cluster in a group is exp(4 weight + 2 deviation). `members` says how its
    usable criteria share it: in proportion to exp(4 gene); whole to the one with the largest gene, the earliest of
    equals; or equally, unless a gene is not zero, as in baselines of one criterion.
    """

    deviations: bool = False
    members: Members = "weights"

    @cached_property
    def network_clusters(self) -> tuple[tuple[int, ...], ...]:
        """The clusters of the whole network, as row numbers; a criterion that no group can use is in none."""
        return merge_clusters(self.clusters, len(self.criteria))

    @property
    def genes(self) -> int:
        """Number of genes of a blend."""
        clusters = len(self.network_clusters)
        return clusters + len(self.criteria) + (self.groups * clusters if self.deviations else 0)

    @property
    def spread(self) -> NDArray[np.float64]:
        clusters, members = len(self.network_clusters), len(self.criteria)
        shared = 0.0 if self.members == "mean" else MEMBER_SPREAD
        spread = np.full(self.genes, DEVIATION_SPREAD)
        spread[:clusters], spread[clusters : clusters + members] = CLUSTER_SPREAD, shared
        return spread

    def make_equal_blend(self) -> Genome:
        """Make the equal blend of all criteria in the uniform allocation; with `choice`, of one of each cluster."""
        return self.make_uniform_genome(self.make_blend(np.zeros(len(self.criteria))))

    def make_single_criterion(self, criterion: int) -> Genome:
        """Make a blend in which one criterion (by row number) has almost all weight, in the uniform allocation.

        The equal blend if no group can use it.
        """
        if self._cluster_numbers[criterion] < 0:
            return self.make_equal_blend()
        weights = np.full(len(self.criteria), -1.0)
        weights[criterion] = 1.0
        return self.make_uniform_genome(self._compose(weights))

    def make_blend(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Make the blend whose criteria have weights in proportion to exp(4 weights), (criteria,) in [-1, 1].

        With `choice` the best criterion of a cluster represents it; with `mean` the cluster has the sum of the weights.
        """
        blend = self._compose(weights)
        if self.members == "mean":
            blend[self._member_genes] = 0.0
        return blend

    def sample(self, rng: np.random.Generator) -> Genome:
        """Sample weights and target uniformly, deviations and shares normally around zero."""
        blend = np.clip(rng.normal(0, 0.3, self.genes), -1, 1)
        uniform = self._member_genes.stop
        blend[:uniform] = rng.uniform(-1, 1, uniform)
        if self.members == "mean":
            blend[self._member_genes] = 0.0
        share = np.clip(rng.normal(0, 0.15, self.groups), -1, 1)
        return Genome(blend, share, float(rng.random()), self.sample_transform(rng))

    def compute_weights(self, genome: Genome) -> NDArray[np.float64]:
        """Compute the weight of each criterion in each group, (groups, criteria), the largest at most 1; 0 if left out.

        The weights of a cluster's usable criteria add up to the cluster's.
        """
        clusters = len(self.network_clusters)
        logs = WEIGHT_SCALE * genome.blend[:clusters] + DEVIATION_SCALE * self._get_deviations(genome)
        shares = self._compute_shares(genome.blend[self._member_genes])
        logs = np.where(shares.any(axis=2), logs, -np.inf)
        top = logs.max(axis=1, keepdims=True, initial=-np.inf)
        totals = np.exp(logs - np.where(np.isfinite(top), top, 0.0))
        return np.asarray((totals[:, :, None] * shares).sum(axis=1))

    def describe(self, genome: Genome) -> GenomeFields:
        clusters = len(self.network_clusters)
        return {
            "cluster": genome.blend[:clusters].tolist(),
            "member": genome.blend[self._member_genes].tolist(),
            "deviation": self._get_deviations(genome).tolist(),
            "share": genome.share.tolist(),
            "target": float(genome.target),
            **self.describe_transform(genome),
        }

    def parse_genome(self, facts: GenomeFields) -> Genome:
        parts = [facts["cluster"], facts["member"], np.ravel(facts["deviation"]) if self.deviations else []]
        blend = np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])
        share = np.asarray(facts["share"], dtype=np.float64)
        genome = Genome(blend, share, float(facts["target"]), self.parse_transform(facts))
        check_genes(self, genome.flatten())
        return genome

    @property
    def _member_genes(self) -> slice:
        clusters = len(self.network_clusters)
        return slice(clusters, clusters + len(self.criteria))

    @cached_property
    def _cluster_numbers(self) -> NDArray[np.int64]:
        """Number of each criterion's cluster, (criteria,); -1 if no group can use it."""
        found = np.full(len(self.criteria), -1, dtype=np.int64)
        for number, members in enumerate(self.network_clusters):
            found[list(members)] = number
        return found

    @cached_property
    def _members(self) -> NDArray[np.bool_]:
        """Usable members of each cluster in each group, (groups, K, criteria)."""
        usable = np.array([np.isfinite(rows[:, 0]) for rows in self.ranks])
        numbers = np.arange(len(self.network_clusters))
        return np.asarray(usable[:, None] & (self._cluster_numbers == numbers[:, None]))

    def _compute_shares(self, genes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute the share of each usable criterion in its cluster's weight, (groups, K, criteria)."""
        if self.members == "choice":
            found = np.zeros(self._members.shape)
            chosen = np.where(self._members, genes, -np.inf).argmax(axis=2)[:, :, None]
            np.put_along_axis(found, chosen, np.take_along_axis(self._members, chosen, axis=2), axis=2)
            return found
        found = np.where(self._members, np.exp(WEIGHT_SCALE * genes), 0.0)
        return np.asarray(found / np.maximum(found.sum(axis=2, keepdims=True), 1e-12))

    def _compose(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Make the genes whose criteria have weights in proportion to exp(4 weights), as far as bounds allow."""
        blend, first = np.zeros(self.genes), self._member_genes.start
        for number, members in enumerate(self.network_clusters):
            rows = np.array(members)
            own = weights[rows]
            total = own.max() if self.members == "choice" else np.log(np.exp(WEIGHT_SCALE * own).sum()) / WEIGHT_SCALE
            blend[number], blend[first + rows] = total, own - (own.max() + own.min()) / 2
        blend[:first] -= max(0.0, float(blend[:first].max(initial=0.0)) - 1)
        return np.clip(blend, -1, 1)

    def _get_deviations(self, genome: Genome) -> NDArray[np.float64]:
        shape = (self.groups, len(self.network_clusters))
        return genome.blend[self._member_genes.stop :].reshape(shape) if self.deviations else np.zeros(shape)


def make_cluster_space(
    table: ScoreTable, clusters: Clusters, deviations: bool = True, members: Members = "weights"
) -> ClusterSpace:
    """Make the space over a score table and its clusters, which agree in all groups (`cluster_network`)."""
    ranks = tuple(normalize_ranks(scores) for scores in table.scores)
    return ClusterSpace(table.criteria, ranks, clusters, deviations, members)
