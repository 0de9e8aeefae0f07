"""Similarity of criteria in the whole network: correlations averaged over groups, clustered, and ordered."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from blendsearch.blend.clustering import ClusteringMethod, Clusters, cluster, compute_rank_correlation
from blendsearch.criteria.table import ExcludedCriterion, ScoreTable
from blendsearch.errors import ConfigError


@dataclass(frozen=True)
class Cluster:
    """Criteria with similar rows of the averaged correlation.

    Attributes
    ----------
    members: row numbers of the score table; neighbours are similar.
    centre: the medoid: the member with the highest mean correlation to the others; the earliest of equals.
    mean_inside: mean correlation over pairs of members; NaN for a single one.
    mean_to_others: mean correlation of members with criteria of other clusters; NaN if there are none.
    """

    members: tuple[int, ...]
    centre: int
    mean_inside: float
    mean_to_others: float


@dataclass(frozen=True, eq=False)
class CorrelationMap:
    """Spearman's rho between n criteria, in each of G groups and on average.

    Attributes
    ----------
    criteria, groups: names, in the order of the score table.
    channels: per group, its width C.
    correlations: (G, n, n); NaN if a criterion is left out, or if fewer than two channels leave nothing to rank.
    average: (n, n), mean of each pair over the groups that have both; NaN for pairs that no group has.
    clusters: clusters of `average`, in display order.
    mean_inside, mean_between: mean of `average` over pairs of criteria of one cluster, and of two; NaN if there are
        none.
    difference: (G,) mean |rho - average| over the pairs of the group; NaN if it has none.
    group_clusters: per group, its own clusters.
    left_out: criteria that cannot be used for a group, and why.
    """

    criteria: tuple[str, ...]
    groups: tuple[str, ...]
    channels: tuple[int, ...]
    correlations: NDArray[np.float64]
    average: NDArray[np.float64]
    clusters: tuple[Cluster, ...]
    mean_inside: float
    mean_between: float
    difference: NDArray[np.float64]
    group_clusters: Clusters
    left_out: tuple[ExcludedCriterion, ...]

    @property
    def order(self) -> tuple[int, ...]:
        """Row numbers in display order, cluster after cluster, without criteria that can be used in no group."""
        return tuple(row for found in self.clusters for row in found.members)


def build_correlation_map(
    table: ScoreTable,
    group_clusters: Clusters,
    method: ClusteringMethod,
    clusters: int | Literal["silhouette"],
    seed: int,
) -> CorrelationMap:
    """Average the groups' correlations, each group with equal weight, and cluster the average as each group is
    clustered.

    For clustering, a pair of criteria that no group has counts as uncorrelated. Raises ConfigError if no criterion can
    be used in any group.
    """
    correlations = compute_group_correlations(table)
    average = average_correlations(correlations)
    rows = np.flatnonzero(np.isfinite(average.diagonal()))
    if not len(rows):
        raise ConfigError("no criterion of the pool ranks the channels of any group: name others in criteria.pool")
    known = np.nan_to_num(average[np.ix_(rows, rows)])
    labels = cluster(known, method, clusters, seed)
    order = compute_leaf_order(known, labels)
    shown = list(dict.fromkeys(labels[order].tolist()))
    members = [tuple(int(row) for row in rows[order[labels[order] == label]]) for label in shown]
    same = np.equal.outer(labels, labels)
    off_diagonal = ~np.eye(len(rows), dtype=bool)
    usable = average[np.ix_(rows, rows)]
    return CorrelationMap(
        table.criteria,
        table.groups,
        tuple(scores.shape[1] for scores in table.scores),
        correlations,
        average,
        tuple(_make_cluster(average, found, rows) for found in members),
        compute_finite_mean(usable[same & off_diagonal]),
        compute_finite_mean(usable[~same]),
        compute_differences(correlations, average),
        group_clusters,
        table.left_out,
    )


def compute_group_correlations(table: ScoreTable) -> NDArray[np.float64]:
    """Compute Spearman's rho of every group over all rows of the table, (G, n, n); NaN where there is none."""
    n = len(table.criteria)
    found = np.full((len(table.groups), n, n), np.nan)
    for group, scores in enumerate(table.scores):
        rows = table.find_usable(group)
        if scores.shape[1] > 1 and len(rows):
            found[group][np.ix_(rows, rows)] = compute_rank_correlation(scores[rows])
    return found


def cluster_network(
    table: ScoreTable, method: ClusteringMethod, clusters: int | Literal["silhouette"], seed: int
) -> Clusters:
    """Cluster the criteria once for the whole network, by their average correlation over the groups.

    Returns for each group the members of each cluster that it can use. A pair of criteria that no group has counts as
    uncorrelated; a criterion that no group can use is in no cluster.
    """
    usable = [table.find_usable(group) for group in range(len(table.groups))]
    rows = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *usable]))
    if not len(rows):
        return tuple(() for _ in usable)
    average = np.nan_to_num(average_correlations(compute_group_correlations(table))[np.ix_(rows, rows)])
    np.fill_diagonal(average, 1.0)
    labels = cluster(average, method, clusters, seed)
    number = dict(zip(rows.tolist(), labels.tolist(), strict=True))
    return tuple(
        tuple(
            members
            for label in range(labels.max() + 1)
            if (members := tuple(int(row) for row in found if number[int(row)] == label))
        )
        for found in usable
    )


def average_correlations(correlations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average each pair's correlation over the groups that have one: (G, n, n) -> (n, n)."""
    known = np.isfinite(correlations)
    groups = known.sum(axis=0)
    total = np.where(known, correlations, 0.0).sum(axis=0)
    return np.where(groups > 0, total / np.maximum(groups, 1), np.nan)


def compute_differences(correlations: NDArray[np.float64], average: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the distance of each group from the average: mean |rho - average| over its pairs of criteria, (G,)."""
    off_diagonal = ~np.eye(len(average), dtype=bool)
    return np.asarray([compute_finite_mean(np.abs(rho - average)[off_diagonal]) for rho in correlations])


def compute_leaf_order(correlation: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return row numbers such that clusters are contiguous and neighbours as similar as possible, (n,).

    Optimal leaf ordering (Bar-Joseph et al. 2001) of the average-linkage tree on 1 - rho. Of the two directions, the
    one that begins with the larger cluster, then with the smaller row number.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    n = len(correlation)
    if n < 3:
        return np.argsort(labels, kind="stable").astype(np.int64)
    # distances inside a cluster are at most 2, so clusters are complete before they join
    distance = 1 - (correlation + correlation.T) / 2 + 4.0 * np.not_equal.outer(labels, labels)
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(np.clip(distance, 0, None), checks=False), "average", optimal_ordering=True)
    order = np.asarray(leaves_list(tree), dtype=np.int64)
    sizes = np.bincount(labels)[labels[order]]
    if (-sizes[-1], order[-1]) < (-sizes[0], order[0]):
        order = order[::-1]
    return order


def compute_finite_mean(values: NDArray[np.float64]) -> float:
    """Return the mean of finite values; NaN if there are none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def _make_cluster(average: NDArray[np.float64], members: tuple[int, ...], rows: NDArray[np.int64]) -> Cluster:
    among = average[np.ix_(members, members)].copy()
    np.fill_diagonal(among, np.nan)
    closeness = {row: compute_finite_mean(among[place]) for place, row in enumerate(members)}
    # rounded, since means of the same numbers in another order differ in the last bits
    centre = max(sorted(members), key=lambda row: round(closeness[row], 9) if np.isfinite(closeness[row]) else -2.0)
    others = [int(row) for row in rows if row not in members]
    return Cluster(members, centre, compute_finite_mean(among), compute_finite_mean(average[np.ix_(members, others)]))
