"""What evolution varies: how criteria are blended, and how much each group gives.

Two genomes may decode to the same cut; a candidate's identity is the cut.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from blendsearch.blend.clustering import Clusters

SHARE_SCALE = 8.0
"""Log-odds of keeping a channel that a share of 1 adds over the network's threshold."""

BASELINE_GENE = 0.5
"""Size of the gene of a layer that a baseline leaves whole (minus) or decomposes (plus): the other side is in reach."""


NO_GENES: NDArray[np.float64] = np.zeros(0)


class Genome(NamedTuple):
    """One point of a space.

    blend: (B,) how criteria are blended, coded as the space says.
    share: (groups,) in [-1, 1]: more keeps more of the group; zero everywhere is the uniform allocation.
    target: where in the span of budgets, in [0, 1]; of no effect when one budget is asked.
    transform: (layers,) in [-1, 1]: above zero the layer is decomposed; none where no transform is asked for.
    """

    blend: NDArray[np.float64]
    share: NDArray[np.float64]
    target: float
    transform: NDArray[np.float64] = NO_GENES

    def flatten(self) -> list[float]:
        """All genes as JSON numbers: blend, shares, transform, target."""
        return [*self.blend.tolist(), *self.share.tolist(), *self.transform.tolist(), float(self.target)]


def compute_flip_step(layers: int) -> float:
    """The standard deviation by which about two of so many transform genes leave the side on which a baseline has them.

    Each flips a whole layer: a step that is right for one of five layers would throw eight of fifty-five over.
    """
    return float(BASELINE_GENE / norm.isf(min(0.25, 2 / max(1, layers))))


class Space(Protocol):
    """The genomes of one run.

    Attributes
    ----------
    ranks: per group, the criteria's scores rank-normalised to [0, 1], shape (criteria, C); left-out rows are NaN.
    low, high: (B,) bounds of the blend's genes.
    integers: how many of the blend's genes, the first ones, are whole numbers.
    spread: (B,) a step of each blend gene that changes a cut noticeably, but not out of recognition.
    layers: how many layers may be decomposed.
    """

    @property
    def criteria(self) -> tuple[str, ...]: ...
    @property
    def ranks(self) -> tuple[NDArray[np.float64], ...]: ...
    @property
    def groups(self) -> int: ...
    @property
    def low(self) -> NDArray[np.float64]: ...
    @property
    def high(self) -> NDArray[np.float64]: ...
    @property
    def integers(self) -> int: ...
    @property
    def spread(self) -> NDArray[np.float64]: ...
    @property
    def layers(self) -> int: ...

    def make_equal_blend(self) -> Genome:
        """The naive equal blend of all criteria in the uniform allocation."""
        ...

    def make_single_criterion(self, criterion: int) -> Genome:
        """One criterion (by row number) alone in the uniform allocation; the equal blend where it is left out."""
        ...

    def sample(self, rng: np.random.Generator) -> Genome:
        """A draw over blends and targets, with shares normal around the uniform allocation."""
        ...

    def compute_weights(self, genome: Genome) -> NDArray[np.float64]:
        """How much each criterion counts in each group, (groups, criteria), at least 0; where left out, 0."""
        ...

    def describe(self, genome: Genome) -> dict[str, Any]:
        """The genome as JSON values, for a reader."""
        ...

    def parse_genome(self, facts: Mapping[str, Any]) -> Genome:
        """The genome that `described` gave these values."""
        ...


@dataclass(frozen=True, eq=False)
class ClusteredSpace:
    """What every space over clustered criteria holds.

    Attributes
    ----------
    ranks: per group, the criteria's scores rank-normalised to [0, 1], shape (criteria, C); left-out rows are NaN.
    clusters: per group, its clusters as tuples of row numbers.
    layers: how many layers may be decomposed.
    """

    criteria: tuple[str, ...]
    ranks: tuple[NDArray[np.float64], ...]
    clusters: Clusters
    layers: int = field(default=0, kw_only=True)

    @property
    def groups(self) -> int:
        return len(self.ranks)

    @property
    def max_clusters(self) -> int:
        """Clusters of the group that has most: K."""
        return max(1, *(len(clusters) for clusters in self.clusters))

    def make_uniform_genome(self, blend: NDArray[np.float64]) -> Genome:
        """The genome of `blend` in the uniform allocation, with all layers whole."""
        return Genome(blend, np.zeros(self.groups), 0.0, np.full(self.layers, -BASELINE_GENE))

    def sample_transform(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Transform genes around a centre that is drawn too: sets of few layers are as likely as sets of many."""
        if not self.layers:
            return NO_GENES
        return np.asarray(np.clip(rng.uniform(-1, 1) + rng.normal(0, BASELINE_GENE, self.layers), -1, 1))

    def describe_transform(self, genome: Genome) -> dict[str, Any]:
        """The genome's transform as a JSON value, where one is asked for."""
        return {"transform": genome.transform.tolist()} if self.layers else {}

    def parse_transform(self, facts: Mapping[str, Any]) -> NDArray[np.float64]:
        """The transform that `described_transform` gave these values; nothing decomposed where they say nothing."""
        return np.asarray(facts.get("transform", [-BASELINE_GENE] * self.layers), dtype=np.float64)


def unflatten_genome(space: Space, genes: Sequence[float]) -> Genome:
    """The genome whose `flat` is `genes`."""
    numbers = np.asarray(genes, dtype=np.float64)
    blend, share, transform, target = np.split(numbers, np.cumsum([len(space.low), space.groups, space.layers]))
    return Genome(blend, share, float(target[0]), transform)


def compute_bounds(space: Space) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least and largest values of the genes that `Genome.flat` lists."""
    signed = np.ones(space.groups + space.layers)
    return np.concatenate([space.low, -signed, [0.0]]), np.concatenate([space.high, signed, [1.0]])


def blend_ranks(ranks: Sequence[NDArray[np.float64]], weights: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """One score per channel of each group, in [0, 1]: the mean of the criteria's ranks, weighted (groups, criteria).

    Where all weights are zero every usable criterion counts alike; where none is usable the channels' order decides.
    """
    found = []
    for rows, weight in zip(ranks, weights, strict=True):
        usable = np.isfinite(rows[:, 0])
        heard = np.where(usable, weight, 0.0)
        if not heard.any():
            heard = usable.astype(np.float64)
        chosen = np.flatnonzero(heard)
        score = heard[chosen] @ rows[chosen] if len(chosen) else np.zeros(rows.shape[1])
        found.append(score / max(float(heard.sum()), 1e-12))
    return found


def normalize_ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 0 (least) to 1 (most) along the channels, ties at their mean: (n, C) -> (n, C); NaN rows stay NaN.

    Raw scales differ by orders of magnitude: in a blend one criterion would drown the others.
    """
    channels = scores.shape[1]
    if channels < 2:
        return np.where(np.isnan(scores), np.nan, 1.0)
    return np.where(np.isnan(scores), np.nan, (rankdata(scores, axis=1) - 1) / (channels - 1))
