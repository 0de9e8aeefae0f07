"""The loss of logits at the temperature that suits them best."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from blendsearch.fitness.temperature import HIGHEST, LOWEST, compute_fitted_loss, fit_scale


def make_logits(
    seed: int, images: int = 60, classes: int = 5, signal: float = 1.5
) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (images,), generator=rng)
    return torch.randn(images, classes, generator=rng) + signal * F.one_hot(labels, classes), labels


@pytest.mark.parametrize("factor", [0.02, 0.5, 1.0, 7.0, 60.0])
@pytest.mark.parametrize("soft", [False, True])
def test_the_loss_is_the_least_over_temperatures(factor: float, soft: bool) -> None:
    logits, labels = make_logits(3)
    targets = F.log_softmax(1.3 * logits + torch.randn(logits.shape), dim=1) if soft else labels
    logits = factor * logits

    def compute_loss(exponent: float) -> float:
        scaled = logits.double() * math.exp(exponent)
        if soft:
            divergence = F.kl_div(
                F.log_softmax(scaled, dim=1), targets.double(), reduction="batchmean", log_target=True
            )
            return float(divergence)
        return float(F.cross_entropy(scaled, targets))

    least = minimize_scalar(compute_loss, bounds=(math.log(LOWEST), math.log(HIGHEST)), method="bounded")
    assert compute_fitted_loss(logits, targets) == pytest.approx(least.fun, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), factor=st.floats(0.1, 10), signal=st.floats(-1, 4))
def test_the_loss_does_not_depend_on_the_scale(seed: int, factor: float, signal: float) -> None:
    logits, labels = make_logits(seed, signal=signal)
    if LOWEST * 20 < fit_scale(logits, labels) < HIGHEST / 20:
        once, again = compute_fitted_loss(logits, labels), compute_fitted_loss(logits * factor, labels)
        assert again == pytest.approx(once, abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), factor=st.floats(0.1, 50), signal=st.floats(-3, 4))
def test_the_loss_is_at_most_the_plain_one(seed: int, factor: float, signal: float) -> None:
    logits, labels = make_logits(seed, signal=signal)
    assert (
        compute_fitted_loss(factor * logits, labels) <= float(F.cross_entropy(factor * logits.double(), labels)) + 1e-9
    )


def test_an_overconfident_network_is_ahead_of_one_near_chance() -> None:
    logits, labels = make_logits(1, images=400, classes=10, signal=2.0)
    overconfident, near_chance = 12 * logits, 0.01 * torch.randn(400, 10, generator=torch.Generator().manual_seed(2))
    assert F.cross_entropy(overconfident, labels) > F.cross_entropy(near_chance, labels)
    assert compute_fitted_loss(overconfident, labels) < compute_fitted_loss(near_chance, labels)


def test_logits_worse_than_chance_lose_as_much_as_chance() -> None:
    logits, labels = make_logits(4, signal=-3.0)
    assert compute_fitted_loss(logits, labels) == pytest.approx(math.log(5), abs=0.05)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_give_nan(value: float) -> None:
    logits, labels = make_logits(5)
    logits[3, 2] = value
    assert math.isnan(compute_fitted_loss(logits, labels))


def test_logits_without_differences_keep_their_loss() -> None:
    assert compute_fitted_loss(torch.ones(8, 4), torch.zeros(8, dtype=torch.int64)) == pytest.approx(np.log(4))
