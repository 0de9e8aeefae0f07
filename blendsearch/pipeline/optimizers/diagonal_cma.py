"""DEAP's CMA-ES with a diagonal covariance, a generator of its own, and samples of earlier states.

Ros and Hansen 2008, "A Simple Modification in CMA-ES Achieving Linear Time and Space Complexity": with one variance per
gene, fewer numbers are learnt from the same evaluations, and the learning rates grow by (n + 2) / 3.
Hansen 2011, "Injecting External Solutions Into CMA-ES": samples of earlier distributions count with bounded steps.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from deap import cma
from numpy.typing import NDArray

from blendsearch.pipeline.optimizers.cma_state import SeparableState, StrategyState
from blendsearch.pipeline.optimizers.evolution import make_fitness_class

Vector = NDArray[np.float64]

LEAST_VARIANCE = 1e-12
"""Least variance of a gene, as a part of its first one."""

LARGEST = 1e9
"""No number of a state is larger: genes are in [-1, 1]."""


class Sample(np.ndarray):
    """A vector with a DEAP fitness: its rank, the best first."""

    fitness: Any


class DiagonalStrategy(cma.Strategy):  # type: ignore[misc]
    """A normal distribution over the genes with a positive `spread`; the others keep their value in `mean`.

    Parameters
    ----------
    mean: (n,) the centre. spread: (n,) the first standard deviations, which make all genes comparable.
    size: the number of samples of a generation.
    """

    def __init__(self, mean: Vector, spread: Vector, size: int) -> None:
        self.spread, self.fixed = np.asarray(spread, dtype=np.float64), np.array(mean, dtype=np.float64)
        self.varied = np.flatnonzero(self.spread > 0)
        super().__init__(self.fixed[self.varied], 1.0, cmatrix=np.diag(self.spread[self.varied] ** 2), lambda_=size)
        self._set_variances(self.spread[self.varied] ** 2)

    @property
    def mean(self) -> Vector:
        """Centre of the distribution, (n,)."""
        return self._complete(self.centroid)

    def computeParams(self, params: Mapping[str, Any]) -> None:
        super().computeParams(params)
        faster = (self.dim + 2) / 3
        self.ccov1: float = min(1.0, faster * self.ccov1)
        self.ccovmu: float = min(1 - self.ccov1, faster * self.ccovmu)

    def draw(self, rng: np.random.Generator) -> Vector:
        """Draw one sample, (n,)."""
        return self._complete(self.centroid + self.sigma * self.diagD * rng.standard_normal(self.dim))

    def learn(self, ranked: Sequence[Vector], *, bounded: bool = False) -> None:
        """Move towards the better half of `ranked` samples, the best first.

        With `bounded`, samples of earlier states of the distribution count at most as much as its present ones.
        """
        vectors = np.array(ranked)[:, self.varied]
        if bounded:
            vectors = self._bound_steps(vectors)
        self.computeParams({**self.params, "mu": max(1, len(vectors) // 2)})
        self.update([_make_sample(vector, rank) for rank, vector in enumerate(vectors)])

    def update(self, population: list[Sample]) -> None:
        """Update the distribution as DEAP does, then drop the covariances between genes."""
        super().update(population)
        self._set_variances(np.maximum(np.diag(self.C), LEAST_VARIANCE * self.spread[self.varied] ** 2))

    def state_dict(self) -> StrategyState:
        """Return everything that `from_state_dict` needs, as JSON values."""
        return {
            "mean": self.mean.tolist(),
            "spread": self.spread.tolist(),
            "covariance": np.diag(self.C).tolist(),
            "path_sigma": self.ps.tolist(),
            "path": self.pc.tolist(),
            "size": self.lambda_,
            "sigma": float(self.sigma),
            "generation": self.update_count,
        }

    @classmethod
    def from_state_dict(cls, state: StrategyState | SeparableState) -> "DiagonalStrategy":
        """Return the strategy that gave `state`. Raises ValueError where its parts do not fit each other."""
        current = cast(StrategyState, state) if "covariance" in state else _convert_state(state)
        mean, spread, variances = (
            np.array(current["mean"]),
            np.array(current["spread"]),
            np.array(current["covariance"]),
        )
        paths = np.array(current["path_sigma"]), np.array(current["path"])
        if {len(item) for item in (variances, *paths)} != {int((spread > 0).sum())} or len(mean) != len(spread):
            raise ValueError("the state of its strategy is not one of this space")
        if current["size"] < 1 or current["generation"] < 0 or not current["sigma"] > 0:
            raise ValueError("the state of its strategy is not one of this space")
        if max(abs(item).max(initial=0) for item in (mean, spread, variances, *paths)) > LARGEST or (
            current["sigma"] > LARGEST
        ):
            raise ValueError("a number in the state of its strategy is too large")
        if spread.min(initial=0) < 0 or variances.min(initial=1) <= 0:
            raise ValueError("a variance of its strategy is negative")
        found = cls(mean, spread, current["size"])
        found._set_variances(variances)
        found.ps, found.pc = paths
        found.sigma, found.update_count = current["sigma"], current["generation"]
        return found

    def _bound_steps(self, vectors: Vector) -> Vector:
        steps = (vectors - self.centroid) / self.sigma
        lengths = np.linalg.norm(steps / self.diagD, axis=1)
        longest = np.sqrt(self.dim) + 2 * self.dim / (self.dim + 2)
        factors = np.minimum(1.0, longest / np.maximum(lengths, 1e-12))
        return np.asarray(self.centroid + self.sigma * steps * factors[:, None])

    def _set_variances(self, variances: Vector) -> None:
        self.C, self.B, self.diagD = np.diag(variances), np.identity(self.dim), np.sqrt(variances)
        self.BD = np.diag(self.diagD)

    def _complete(self, genes: Vector) -> Vector:
        found = self.fixed.copy()
        found[self.varied] = genes
        return found


def _convert_state(state: SeparableState) -> StrategyState:
    """Return the state of a strategy of version 0.1 at the same place, with the same step."""
    spread, variance, path_sigma, path = (
        np.array(state[name]) for name in ("spread", "variance", "path_sigma", "path")
    )
    if len({len(item) for item in (spread, variance, path_sigma, path)}) > 1:
        raise ValueError("the state of its strategy is not one of this space")
    varied = spread > 0
    return {
        "mean": state["mean"],
        "spread": state["spread"],
        "covariance": (variance * spread**2)[varied].tolist(),
        "path_sigma": path_sigma[varied].tolist(),
        "path": (path * spread)[varied].tolist(),
        "size": state["size"],
        "sigma": state["sigma"],
        "generation": state["generation"],
    }


def _make_sample(vector: Vector, rank: int) -> Sample:
    sample = vector.view(Sample)
    sample.fitness = make_fitness_class(1)((float(rank),))
    return sample
