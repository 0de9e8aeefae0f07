"""A Gaussian process over genomes: what the loss of a candidate probably is, before anybody judges it.

Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning", algorithm 2.1 and section 5.4.1. The covariance
knows two blocks of features, a blend and its shares, each with a length of its own: a part for each alone, which few
points are enough to learn, and a part for both together.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

Array = NDArray[np.float64]
Features = tuple[Array, Array]
"""The two blocks of n points: (n, a) and (n, b)."""

START = np.log([0.5, 0.3, 0.5, 0.3, 0.5, 0.1])
"""Logarithms of: deviations of the three parts (first block, second block, both), the two lengths, the noise."""
PRIOR_WIDTH = 1.5
"""Hyperparameters are normal around `START` in their logarithms: few points alone would not settle them."""
STEPS = 12
"""Steps of L-BFGS from where the hyperparameters were: they move little from one generation to the next."""
MAX_FIT_POINTS = 150
"""The hyperparameters are settled by so many points, the last ones: each step is cubic in them."""


@dataclass
class GaussianProcess:
    """Fitted to points as they come. `logs`, (6,), are the hyperparameters as `START` lists them, kept between fits.

    Sums run on one thread, so that the same points give the same numbers however many processors there are.
    """

    theta: Array = field(default_factory=START.copy)

    def fit(self, features: Features, values: Array) -> None:
        """Learn from `values`, (n,), at `features`; they are centred and scaled here."""
        with threadpool_limits(1):
            self._fit(features, values)

    def predict_mean(self, features: Features) -> Array:
        """The expected values, (m,)."""
        with threadpool_limits(1):
            across = _compute_covariance(self.theta, _compute_squared_distances(features, self._features))
            return np.asarray(self._centre + self._scale * (across @ self._weights))

    def sample_posterior(self, features: Features, count: int, rng: np.random.Generator) -> Array:
        """`count` draws of all values together from the posterior, without noise: (count, m)."""
        with threadpool_limits(1):
            across = _compute_covariance(self.theta, _compute_squared_distances(features, self._features))
            solved = solve_triangular(self._factor, across.T, lower=True)
            spread = _compute_covariance(self.theta, _compute_squared_distances(features, features)) - solved.T @ solved
            root = cholesky(spread + 1e-6 * np.eye(len(spread)), lower=True)
            normal = rng.normal(size=(count, len(spread)))
            return np.asarray(self._centre + self._scale * (across @ self._weights + normal @ root.T))

    def _fit(self, features: Features, values: Array) -> None:
        self._features = features
        self._centre, self._scale = float(values.mean()), float(values.std()) or 1.0
        scaled = (values - self._centre) / self._scale
        squares = _compute_squared_distances(features, features)
        last = (squares[0][-MAX_FIT_POINTS:, -MAX_FIT_POINTS:], squares[1][-MAX_FIT_POINTS:, -MAX_FIT_POINTS:])
        found = minimize(
            lambda logs: self._compute_penalty(logs, last, scaled[-MAX_FIT_POINTS:]),
            self.theta,
            method="L-BFGS-B",
            options={"maxiter": STEPS},
            bounds=[(start - 2 * PRIOR_WIDTH, start + 2 * PRIOR_WIDTH) for start in START],
        )
        self.theta = np.asarray(found.x)
        self._factor = _factorize(_compute_covariance(self.theta, squares), self.theta)
        self._weights = cho_solve((self._factor, True), scaled)

    def _compute_penalty(self, logs: Array, squares: Features, scaled: Array) -> float:
        """The negative logarithm of the marginal likelihood and of the prior, up to a constant."""
        factor = _factorize(_compute_covariance(logs, squares), logs)
        half = solve_triangular(factor, scaled, lower=True)
        likelihood = 0.5 * half @ half + np.log(np.diag(factor)).sum()
        return float(likelihood + 0.5 * (((logs - START) / PRIOR_WIDTH) ** 2).sum())


def _compute_squared_distances(ones: Features, others: Features) -> Features:
    """Squared distances of every pair, per block: (n, m) each."""

    def compute_block(one: Array, other: Array) -> Array:
        found = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)[None] - 2 * one @ other.T
        return np.asarray(np.maximum(found, 0.0))

    return compute_block(ones[0], others[0]), compute_block(ones[1], others[1])


def _compute_covariance(logs: Array, squares: Features) -> Array:
    first, second, both, one, other, _ = np.exp(logs)
    a, b = squares[0] / one**2, squares[1] / other**2
    return np.asarray(first**2 * _compute_matern(a) + second**2 * _compute_matern(b) + both**2 * _compute_matern(a + b))


def _compute_matern(squares: Array) -> Array:
    """Matern's covariance with smoothness 5/2 at squared distances."""
    distances = np.sqrt(5 * squares)
    return np.asarray((1 + distances + 5 * squares / 3) * np.exp(-distances))


def _factorize(covariance: Array, logs: Array) -> Array:
    noise = np.exp(2 * logs[-1]) + 1e-6
    return np.asarray(cholesky(covariance + noise * np.eye(len(covariance)), lower=True))
