"""Genome: how criteria are blended, and how much each group keeps.

Two genomes may decode to the same cut; the identity of a candidate is its cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from blendsearch.blend.clustering import Clusters
from blendsearch.blend.ranking import rank_rows

SHARE_SCALE = 8.0
"""Log-odds of keeping a channel that a share of 1 adds to the network's threshold."""

BASELINE_GENE = 0.5
"""Absolute transform gene of baselines, negative for undecomposed layers; small enough that a mutation can flip the
sign.
"""


TOLERANCE = 1e-6
"""Rounding by which a stored gene may exceed its bounds."""

NO_GENES: NDArray[np.float64] = np.zeros(0)

GenomeFields = dict[str, Any]
"""A genome as JSON values, by name: numbers and nested lists of numbers."""


class Genome(NamedTuple):
    """One point of a space.

    Attributes
    ----------
    blend: (B,) how criteria are blended, coded by the space.
    share: (groups,) in [-1, 1]: more keeps more of the group; zero everywhere is the uniform allocation.
    target: position in the range of budgets, in [0, 1]; without effect for a single budget.
    transform: (layers,) in [-1, 1]: the layer is decomposed above zero, or the block removed; empty without a transform
        and without blocks.
    """

    blend: NDArray[np.float64]
    share: NDArray[np.float64]
    target: float
    transform: NDArray[np.float64] = NO_GENES

    def flatten(self) -> list[float]:
        """Return all genes as JSON numbers: blend, shares, transform, target."""
        return [*self.blend.tolist(), *self.share.tolist(), *self.transform.tolist(), float(self.target)]


def compute_flip_step(layers: int) -> float:
    """Compute the standard deviation of mutations that flip about two of `layers` transform genes of a baseline.

    Each flip changes a whole layer, so a fixed step would change far too many of many layers.
    """
    from scipy.stats import norm  # takes long to import, and few searches have a transform

    return float(BASELINE_GENE / norm.isf(min(0.25, 2 / max(1, layers))))


class Space(Protocol):
    """Genomes of one run.

    Attributes
    ----------
    ranks: per group, the criteria's scores rank-normalised to [0, 1], (criteria, C); left-out rows are NaN.
    low, high: (B,) bounds of the blend's genes.
    integers: number of the blend's genes, from the first, that are integers.
    spread: (B,) step of each blend gene that changes a cut noticeably but not completely.
    layers: number of layers that may be decomposed, or of blocks that may be removed.
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
        """Make the equal blend of all criteria in the uniform allocation."""
        ...

    def make_single_criterion(self, criterion: int) -> Genome:
        """Make the blend of one criterion (by row number) in the uniform allocation; the equal blend if it is left
        out.
        """
        ...

    def sample(self, rng: np.random.Generator) -> Genome:
        """Sample a genome: blend and target, with shares normal around the uniform allocation."""
        ...

    def compute_weights(self, genome: Genome) -> NDArray[np.float64]:
        """Compute the weight of each criterion in each group, (groups, criteria), at least 0; 0 if left out."""
        ...

    def describe(self, genome: Genome) -> GenomeFields:
        """Describe the genome as JSON values with names."""
        ...

    def parse_genome(self, facts: GenomeFields) -> Genome:
        """Parse the genome from the values of `describe`."""
        ...


@dataclass(frozen=True, eq=False)
class ClusteredSpace:
    """Base of the spaces over clustered criteria.

    Attributes
    ----------
    ranks: per group, the criteria's scores rank-normalised to [0, 1], (criteria, C); left-out rows are NaN.
    clusters: per group, its clusters as tuples of row numbers.
    layers: number of layers that may be decomposed, or of blocks that may be removed.
    transform_name: the name of their genes in a description.
    """

    criteria: tuple[str, ...]
    ranks: tuple[NDArray[np.float64], ...]
    clusters: Clusters
    layers: int = field(default=0, kw_only=True)
    transform_name: Literal["transform", "blocks"] = field(default="transform", kw_only=True)

    @property
    def groups(self) -> int:
        return len(self.ranks)

    @property
    def max_clusters(self) -> int:
        """Largest number of clusters in a group: K."""
        return max(1, *(len(clusters) for clusters in self.clusters))

    def make_uniform_genome(self, blend: NDArray[np.float64]) -> Genome:
        """Make the genome of `blend` in the uniform allocation, with no layer decomposed and no block removed."""
        return Genome(blend, np.zeros(self.groups), 0.0, np.full(self.layers, -BASELINE_GENE))

    def sample_transform(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Sample transform genes around a random centre, so that sets of few layers are as likely as sets of many."""
        if not self.layers:
            return NO_GENES
        return np.asarray(np.clip(rng.uniform(-1, 1) + rng.normal(0, BASELINE_GENE, self.layers), -1, 1))

    def describe_transform(self, genome: Genome) -> GenomeFields:
        """Describe the genome's transform as a JSON value; empty without a transform."""
        return {self.transform_name: genome.transform.tolist()} if self.layers else {}

    def parse_transform(self, facts: GenomeFields) -> NDArray[np.float64]:
        """Parse the transform of `describe_transform`; without one, no layer is decomposed and no block removed."""
        genes = facts.get(self.transform_name) if self.layers else []
        return np.asarray([-BASELINE_GENE] * self.layers if genes is None else genes, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class SignedSpace(ClusteredSpace):
    """Base of the spaces whose blend has real genes alone, all in [-1, 1]."""

    @property
    def genes(self) -> int:
        """Number of genes of a blend."""
        raise NotImplementedError

    @property
    def integers(self) -> int:
        return 0

    @property
    def low(self) -> NDArray[np.float64]:
        return np.full(self.genes, -1.0)

    @property
    def high(self) -> NDArray[np.float64]:
        return np.ones(self.genes)


def unflatten_genome(space: Space, genes: Sequence[float]) -> Genome:
    """Build the genome from the genes of `Genome.flatten`. Raises ValueError for another number of genes."""
    numbers = np.asarray(genes, dtype=np.float64)
    if len(numbers) != len(space.low) + space.groups + space.layers + 1:
        raise ValueError(f"a genome has {len(numbers)} genes, which does not fit its space")
    blend, share, transform, target = np.split(numbers, np.cumsum([len(space.low), space.groups, space.layers]))
    return Genome(blend, share, float(target[0]), transform)


def compute_bounds(space: Space) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the least and largest values of the genes in the order of `Genome.flatten`."""
    signed = np.ones(space.groups + space.layers)
    return np.concatenate([space.low, -signed, [0.0]]), np.concatenate([space.high, signed, [1.0]])


def check_genes(space: Space, genes: Sequence[float]) -> None:
    """Raise ValueError unless `genes` are those of a genome of `space`, within their bounds."""
    genome = unflatten_genome(space, genes)
    low, high = compute_bounds(space)
    numbers = np.array(genome.flatten())
    if not ((numbers >= low - TOLERANCE) & (numbers <= high + TOLERANCE)).all():
        raise ValueError("a gene of a genome is outside its bounds")


def blend_ranks(ranks: Sequence[NDArray[np.float64]], weights: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Compute the weighted mean of the criteria's ranks: one score per channel of each group, in [0, 1].

    `weights` has shape (groups, criteria). If all weights of a group are zero, every usable criterion has equal weight.
    If none is usable, the scores are zero and the order of channels decides.
    """
    blended = []
    for rows, weight in zip(ranks, weights, strict=True):
        usable = np.isfinite(rows[:, 0])
        effective = np.where(usable, weight, 0.0)
        if not effective.any():
            effective = usable.astype(np.float64)
        chosen = np.flatnonzero(effective)
        score = effective[chosen] @ rows[chosen] if len(chosen) else np.zeros(rows.shape[1])
        blended.append(score / max(float(effective.sum()), 1e-12))
    return blended


def normalize_ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Normalise to ranks from 0 (least) to 1 (most) along the channels: (n, C) -> (n, C).

    Ties share their mean rank, and NaN rows stay NaN. Raw scales differ by orders of magnitude, so one criterion would
    dominate a blend of raw scores.
    """
    channels = scores.shape[1]
    if channels < 2:
        return np.where(np.isnan(scores), np.nan, 1.0)
    return np.where(np.isnan(scores), np.nan, (rank_rows(scores) - 1) / (channels - 1))
