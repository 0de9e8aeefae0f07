"""The surrogate's model against scikit-learn's Gaussian process, and what it must be able to learn."""

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from blendsearch.pipeline.optimizers.gaussian_process import GaussianProcess

RNG = np.random.default_rng(0)


def test_mean_and_draws_are_those_of_scikit_learn_with_the_same_covariance() -> None:
    points, elsewhere = RNG.random((40, 3)), RNG.random((25, 3))
    values = np.sin(4 * points[:, 0]) + points[:, 1] ** 2 + RNG.normal(0, 0.05, 40)
    ours = GaussianProcess()
    ours.fit((points, np.zeros((40, 2))), values)
    first, second, both, length, _, noise = np.exp(ours.theta)
    # where the second block never varies, its part is a constant, and the part for both is one for the first
    kernel = ConstantKernel(first**2 + both**2) * Matern(length, nu=2.5) + ConstantKernel(second**2)
    kernel += WhiteKernel(noise**2 + 1e-6)
    theirs = GaussianProcessRegressor(kernel, optimizer=None, alpha=0, normalize_y=True).fit(points, values)
    mean, covariance = theirs.predict(elsewhere, return_cov=True)
    asked = (elsewhere, np.zeros((25, 2)))
    np.testing.assert_allclose(ours.predict_mean(asked), mean, rtol=0, atol=1e-8)
    draws = ours.sample_posterior(asked, 20_000, np.random.default_rng(1))
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=0.02)
    without_noise = np.diag(covariance) - values.var() * (noise**2 + 1e-6)
    np.testing.assert_allclose(draws.var(axis=0), without_noise, rtol=0.1, atol=1e-3)


@pytest.mark.parametrize("block", [0, 1])
def test_it_learns_which_block_matters(block: int) -> None:
    points = (RNG.random((120, 4)), RNG.random((120, 4)))
    values = points[block] @ np.array([1.0, -2.0, 0.5, 0.0]) + RNG.normal(0, 0.02, 120)
    model = GaussianProcess()
    model.fit((points[0][:80], points[1][:80]), values[:80])
    told = model.predict_mean((points[0][80:], points[1][80:]))
    assert np.corrcoef(told, values[80:])[0, 1] > 0.9
    assert model.theta[block] > model.theta[1 - block]


def test_values_that_do_not_differ_are_no_error() -> None:
    points = (RNG.random((5, 2)), RNG.random((5, 2)))
    model = GaussianProcess()
    model.fit(points, np.ones(5))
    np.testing.assert_allclose(model.predict_mean(points), 1.0)
