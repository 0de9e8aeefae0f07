"""Kendall's tau, as ``scipy.stats.kendalltau`` computes it: its import takes longer than reading a run."""

import math
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Sequence


def compute_kendall_tau(pairs: Sequence[tuple[float, float]]) -> float:
    """Compute tau-b of pairs of values, in [-1, 1]; NaN where all values of one kind are equal."""
    pairs = sorted(pairs)
    total = math.comb(len(pairs), 2)
    ties_first, ties_second, ties_both = (
        _count_tied_pairs([pair[0] for pair in pairs]),
        _count_tied_pairs([pair[1] for pair in pairs]),
        _count_tied_pairs(pairs),
    )
    if total in (ties_first, ties_second):
        return math.nan
    surplus = total - ties_first - ties_second + ties_both - 2 * _count_discordant(pairs)
    tau = surplus / math.sqrt(total - ties_first) / math.sqrt(total - ties_second)
    return max(-1.0, min(1.0, tau))


def _count_discordant(pairs: Sequence[tuple[float, float]]) -> int:
    """Count the pairs of `pairs`, which are sorted, whose second values are in reverse order."""
    count, seen = 0, list[float]()
    for _, second in pairs:
        count += len(seen) - bisect_left(seen, math.nextafter(second, math.inf))
        insort(seen, second)
    return count


def _count_tied_pairs(values: Sequence[object]) -> int:
    return sum(math.comb(count, 2) for count in Counter(values).values())
