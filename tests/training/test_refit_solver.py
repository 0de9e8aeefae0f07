"""The solver of the refit: equal to a float64 reference, and never worse than no change."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from blendsearch.training.refit_solver import GRAM_BLOCK, compute_gram, solve_ridge


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def compute_moments(rows: Tensor, residuals: Tensor) -> tuple[Tensor, Tensor]:
    return compute_gram(rows), rows.T @ residuals / len(rows)


@pytest.mark.parametrize("inputs", [5, GRAM_BLOCK, 2 * GRAM_BLOCK + 7])
def test_a_gram_matrix_in_blocks_is_the_whole_product(inputs: int) -> None:
    rows = draw(40, inputs)
    torch.testing.assert_close(compute_gram(rows), rows.T @ rows / 40)


@pytest.mark.parametrize("rows_per_input", [0.5, 2, 8])
def test_the_solution_is_that_of_least_squares_in_float64(rows_per_input: float) -> None:
    """With correlated inputs of unequal scales; the ridge is rows that pull to zero."""
    inputs, ridge = 96, 1e-3
    rows = (draw(int(rows_per_input * inputs), inputs) @ draw(inputs, inputs, seed=1)) * torch.logspace(-2, 0, inputs)
    residuals = rows @ draw(inputs, 4, seed=2) + 0.1 * draw(len(rows), 4, seed=3)
    gram, cross_moments = compute_moments(rows, residuals)
    found = solve_ridge(gram, cross_moments, ridge)
    pull = np.sqrt(len(rows) * ridge * float(gram.diagonal().double().mean()))
    stacked = np.vstack([rows.double().numpy(), pull * np.eye(inputs)])
    wanted, *_ = np.linalg.lstsq(stacked, np.vstack([residuals.double().numpy(), np.zeros((inputs, 4))]), rcond=None)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 60),
    inputs=st.integers(1, 40),
    scale=st.sampled_from([1e-12, 1e-3, 1.0, 1e6]),
    ridge=st.sampled_from([0.0, 1e-5, 1e-2, 1.0]),
    flaw=st.sampled_from(["none", "dead", "copies", "constant"]),
)
def test_the_change_never_increases_the_error(
    seed: int, rows: int, inputs: int, scale: float, ridge: float, flaw: str
) -> None:
    """Fewer rows than inputs, dead and repeated channels, singular Gram matrices."""
    x, residuals = scale * draw(rows, inputs, seed=seed), draw(rows, 3, seed=seed + 1)
    if flaw != "none":
        x[:, ::2] = {"dead": 0.0, "copies": x[:, :1].clone(), "constant": scale}[flaw]
    change = solve_ridge(*compute_moments(x, residuals), ridge)
    assert torch.isfinite(change).all()
    before, after = (found.double().square().sum(dim=0) for found in (residuals, residuals - x @ change))
    assert (after <= before * (1 + 1e-4) + 1e-9).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_rows_that_are_not_finite_change_nothing(value: float) -> None:
    rows, residuals = draw(30, 8), draw(30, 3)
    rows[4, 2] = value
    assert not solve_ridge(*compute_moments(rows, residuals), 1e-2).any()


def test_a_target_that_is_not_finite_changes_no_other_output() -> None:
    rows, residuals = draw(30, 8), draw(30, 3)
    whole = solve_ridge(*compute_moments(rows, residuals), 1e-2)
    residuals[3, 1] = float("nan")
    found = solve_ridge(*compute_moments(rows, residuals), 1e-2)
    assert not found[:, 1].any()
    torch.testing.assert_close(found[:, [0, 2]], whole[:, [0, 2]])
