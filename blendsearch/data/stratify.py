"""Stratified selection of images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from blendsearch.data.split import Indices, Labels


def split_stratified(labels: Labels, counts: NDArray[np.int64], rng: np.random.Generator) -> tuple[Indices, Indices]:
    """Draw `counts[c]` positions of every class c. Return them and the remaining ones, both in random order."""
    order = rng.permutation(len(labels))
    shuffled = labels[order]
    by_class = np.argsort(shuffled, kind="stable")
    sizes = np.bincount(labels, minlength=len(counts))
    rank = np.empty(len(labels), dtype=np.int64)
    rank[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    taken = rank < counts[shuffled]
    return order[taken], order[~taken]


def allocate_proportionally(sizes: NDArray[np.int64], total: int, *, spare: int) -> NDArray[np.int64] | None:
    """Share `total` images among classes in proportion to `sizes`, by largest remainders: (classes,) -> (classes,).

    Every class receives its exact share rounded down or up, with two exceptions. No class is left without an image if
    `total` suffices for one each, and at least `spare` images of every class stay behind. Returns None if no such
    allocation exists. Classes of size 0 receive 0.
    """
    high = np.maximum(sizes - spare, 0)
    present = sizes > 0
    # with `spare`, a missing class is an error; without, it cannot always be avoided
    low = present.astype(np.int64) if spare or total >= present.sum() else np.zeros_like(sizes)
    if (low > high).any() or not low.sum() <= total <= high.sum():
        return None
    exact = total * sizes / max(int(sizes.sum()), 1)
    counts: NDArray[np.int64] = np.clip(np.floor(exact).astype(np.int64), low, high)
    while (missing := total - int(counts.sum())) != 0:
        step = 1 if missing > 0 else -1
        room = counts < high if step > 0 else counts > low
        counts[np.argmax(np.where(room, step * (exact - counts), -np.inf))] += step
    return counts
