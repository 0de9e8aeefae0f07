"""Clustering of criteria by the Spearman correlation of their scores.

He et al. 2021, "Blending Pruning Criteria for CNNs", section 3.2: criteria whose rankings of one layer's filters agree
are interchangeable there, so a blend needs one criterion of each cluster.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from blendsearch.blend.ranking import rank_rows
from blendsearch.criteria.table import ScoreTable
from blendsearch.garbage import pause_garbage_collection

ClusteringMethod = Literal["kmeans", "agglomerative"]
Clusters = tuple[tuple[tuple[int, ...], ...], ...]
"""For each group, its clusters as tuples of row numbers of the score table."""


def compute_rank_correlation(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute Spearman's rho between criteria: scores (n, C) -> (n, n), in [-1, 1], ones on the diagonal.

    Ties share their mean rank. With fewer than two channels nothing can be ranked, and all correlations are 1.
    """
    if scores.shape[1] < 2:
        return np.ones((len(scores), len(scores)))
    ranks = rank_rows(scores)
    ranks -= ranks.mean(axis=1, keepdims=True)
    length = np.linalg.norm(ranks, axis=1, keepdims=True)
    ranks /= np.where(length > 0, length, 1)
    rho: NDArray[np.float64] = np.clip(ranks @ ranks.T, -1.0, 1.0)
    np.fill_diagonal(rho, 1.0)
    return rho


def cluster(
    correlation: NDArray[np.float64], method: ClusteringMethod, clusters: int | Literal["silhouette"], seed: int
) -> NDArray[np.int64]:
    """Cluster criteria: (n, n) -> (n,), cluster numbers 0, 1, ... in order of first appearance.

    ``kmeans`` groups the rows of the correlation matrix, as the paper does. ``agglomerative`` joins criteria by average
    linkage on the distance 1 - rho. `clusters` is their number (fewer if there are fewer criteria), or ``silhouette``:
    the number from 2 to n - 1 with the largest mean silhouette.
    """
    n = len(correlation)
    if clusters == "silhouette":
        return _renumber(_cluster_by_silhouette(correlation, method, seed))
    return _renumber(_fit_labels(correlation, method, min(clusters, n), seed))


def cluster_groups(
    table: ScoreTable, method: ClusteringMethod, clusters: int | Literal["silhouette"], seed: int
) -> Clusters:
    """Cluster every group's criteria; left-out ones are in no cluster."""
    found: list[tuple[tuple[int, ...], ...]] = []
    for group in range(len(table.groups)):
        rows = table.find_usable(group)
        if not len(rows):
            found.append(())
            continue
        labels = cluster(compute_rank_correlation(table.scores[group][rows]), method, clusters, seed)
        found.append(tuple(tuple(int(row) for row in rows[labels == label]) for label in range(labels.max() + 1)))
    return tuple(found)


def merge_clusters(clusters: Clusters, criteria: int) -> tuple[tuple[int, ...], ...]:
    """Merge the clusters of all groups that share a criterion into clusters of the network, by their first member."""
    parents = list(range(criteria))

    def find_root(row: int) -> int:
        while parents[row] != row:
            row = parents[row]
        return row

    usable = {row for group in clusters for members in group for row in members}
    for members in (members for group in clusters for members in group):
        for row in members[1:]:
            one, other = sorted((find_root(members[0]), find_root(row)))
            parents[other] = one
    merged: dict[int, list[int]] = {}
    for row in sorted(usable):
        merged.setdefault(find_root(row), []).append(row)
    return tuple(tuple(members) for members in merged.values())


def import_scikit_learn() -> None:
    """Import what clusters the criteria; it takes more than a second."""
    with pause_garbage_collection():
        import sklearn.cluster  # noqa: F401


def _fit_labels(
    correlation: NDArray[np.float64], method: ClusteringMethod, clusters: int, seed: int
) -> NDArray[np.int64]:
    import_scikit_learn()
    from sklearn.cluster import AgglomerativeClustering, KMeans

    # criteria with equal rankings leave fewer distinct rows than clusters
    clusters = min(clusters, len(np.unique(np.round(correlation, 9), axis=0)))
    if clusters < 2:
        return np.zeros(len(correlation), dtype=np.int64)
    if method == "kmeans":
        model = KMeans(clusters, n_init=10, random_state=seed)
        return np.asarray(model.fit_predict(correlation), dtype=np.int64)
    joined = AgglomerativeClustering(clusters, metric="precomputed", linkage="average")
    return np.asarray(joined.fit_predict(1 - correlation), dtype=np.int64)


def _cluster_by_silhouette(correlation: NDArray[np.float64], method: ClusteringMethod, seed: int) -> NDArray[np.int64]:
    from sklearn.metrics import silhouette_score

    best, best_score = np.zeros(len(correlation), dtype=np.int64), -np.inf
    for number in range(2, len(correlation)):
        labels = _fit_labels(correlation, method, number, seed)
        if len(np.unique(labels)) < number:
            break
        distance = 1 - correlation
        np.fill_diagonal(distance, 0)
        score = float(silhouette_score(np.clip(distance, 0, None), labels, metric="precomputed"))
        if score > best_score:
            best, best_score = labels, score
    return best


def _renumber(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    return np.asarray(order[inverse], dtype=np.int64)
