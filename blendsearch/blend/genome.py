"""What evolution varies: per group which criteria are blended and how strongly, and how much the group gives.

Two genomes may decode to the same cut; a candidate's identity is the cut.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from blendsearch.criteria.table import ScoreTable

SHARE_SCALE = 8.0
"""Log-odds of keeping a channel that a share of 1 adds over the network's threshold."""


class Genome(NamedTuple):
    """One point of the space.

    choice: (groups, K) for each cluster 0, the mean of its criteria, or i, its i-th criterion.
    factor: (groups, K) calibration factors in [0, 1].
    share: (groups,) in [-1, 1]: more keeps more of the group; zero everywhere is the uniform allocation.
    target: where in the span of budgets, in [0, 1]; of no effect when one budget is asked.
    """

    choice: NDArray[np.int64]
    factor: NDArray[np.float64]
    share: NDArray[np.float64]
    target: float


@dataclass(frozen=True, eq=False)
class Space:
    """The genomes of one run.

    Attributes
    ----------
    ranks: per group, the criteria's scores rank-normalised to [0, 1], shape (criteria, C); left-out rows are NaN.
    clusters: per group, its clusters as tuples of row numbers.
    means: whether a cluster may be heard as the mean of its criteria; else as one of them.
    """

    criteria: tuple[str, ...]
    ranks: tuple[NDArray[np.float64], ...]
    clusters: tuple[tuple[tuple[int, ...], ...], ...]
    means: bool = True

    @property
    def groups(self) -> int:
        return len(self.ranks)

    @property
    def width(self) -> int:
        """Clusters of the group that has most: K."""
        return max(1, *(len(clusters) for clusters in self.clusters))

    @property
    def choices(self) -> NDArray[np.int64]:
        """Largest choice per group and cluster, (groups, K); zero where a group has no such cluster."""
        tops = np.zeros((self.groups, self.width), dtype=np.int64)
        for group, clusters in enumerate(self.clusters):
            for number, members in enumerate(clusters):
                tops[group, number] = len(members)
        return tops

    @property
    def lowest(self) -> NDArray[np.int64]:
        """Smallest choice per group and cluster, (groups, K): 0 where it may be the mean or there is no cluster."""
        return np.zeros_like(self.choices) if self.means else np.minimum(self.choices, 1)

    def equal(self) -> Genome:
        """The naive equal blend of all criteria in the uniform allocation."""
        factor = np.zeros((self.groups, self.width))
        for group, clusters in enumerate(self.clusters):
            largest = max((len(members) for members in clusters), default=1)
            for number, members in enumerate(clusters):
                factor[group, number] = len(members) / largest
        choice = np.zeros((self.groups, self.width), dtype=np.int64)
        return Genome(choice, factor, np.zeros(self.groups), 0.0)

    def single(self, criterion: int) -> Genome:
        """One criterion (by row number) alone in the uniform allocation; the equal blend where it is left out."""
        genome = self.equal()
        for group, clusters in enumerate(self.clusters):
            for number, members in enumerate(clusters):
                if criterion in members:
                    genome.factor[group] = 0.0
                    genome.factor[group, number] = 1.0
                    genome.choice[group, number] = members.index(criterion) + 1
        return genome

    def random(self, rng: np.random.Generator) -> Genome:
        """A uniform draw over choices, factors and target, with shares normal around the uniform allocation."""
        return Genome(
            rng.integers(self.lowest, self.choices + 1),
            rng.random((self.groups, self.width)),
            np.clip(rng.normal(0, 0.15, self.groups), -1, 1),
            float(rng.random()),
        )

    def blend(self, genome: Genome) -> list[NDArray[np.float64]]:
        """One score per channel of each group, in [0, 1]: sum over clusters of factor times normalised rank.

        Where all factors are zero, or no criterion serves, the equal blend (or the channels' order) decides.
        """
        blended = []
        for ranks, clusters, choice, factor in zip(
            self.ranks, self.clusters, genome.choice, genome.factor, strict=True
        ):
            score = np.zeros(ranks.shape[1])
            weights = factor[: len(clusters)]
            if not weights.any():
                weights = np.array([len(members) for members in clusters], dtype=np.float64)
            for members, chosen, weight in zip(clusters, choice, weights, strict=False):
                part = ranks[list(members)].mean(axis=0) if chosen == 0 else ranks[members[chosen - 1]]
                score += weight * part
            blended.append(score / max(float(weights.sum()), 1e-12))
        return blended


def space_of(table: ScoreTable, clusters: tuple[tuple[tuple[int, ...], ...], ...], means: bool = True) -> Space:
    """The space over a score table and its clusters (`clustering.cluster_groups`)."""
    return Space(table.criteria, tuple(rank_normalised(scores) for scores in table.scores), clusters, means)


def rank_normalised(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 0 (least) to 1 (most) along the channels, ties at their mean: (n, C) -> (n, C); NaN rows stay NaN.

    Raw scales differ by orders of magnitude: in a blend one criterion would drown the others.
    """
    channels = scores.shape[1]
    if channels < 2:
        return np.where(np.isnan(scores), np.nan, 1.0)
    return np.where(np.isnan(scores), np.nan, (rankdata(scores, axis=1) - 1) / (channels - 1))
