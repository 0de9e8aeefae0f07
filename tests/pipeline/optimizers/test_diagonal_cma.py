"""DEAP's CMA-ES with a diagonal covariance: against the published update, and states of it."""

import json

import numpy as np
import pytest

from blendsearch.pipeline.optimizers.diagonal_cma import DiagonalStrategy


def learn_by_hand(mean: np.ndarray, spread: np.ndarray, generations: list[np.ndarray]) -> tuple[np.ndarray, float]:
    """Follow Ros and Hansen 2008 in units of the first deviations, with the constants of DEAP; gene by gene."""
    n, size = len(mean), len(generations[0])
    mu = size // 2
    weights = np.array([np.log(mu + 0.5) - np.log(rank) for rank in range(1, mu + 1)])
    weights /= weights.sum()
    mueff = 1 / (weights**2).sum()
    cs, cc = (mueff + 2) / (n + mueff + 3), 4 / (n + 4)
    damps = 1 + 2 * max(0, np.sqrt((mueff - 1) / (n + 1)) - 1) + cs
    c1 = (n + 2) / 3 * 2 / ((n + 1.3) ** 2 + mueff)
    cmu = min(1 - c1, (n + 2) / 3 * 2 * (mueff - 2 + 1 / mueff) / ((n + 2) ** 2 + mueff))
    chi = np.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n))
    centre, sigma, variance, ps, pc = mean / spread, 1.0, np.ones(n), np.zeros(n), np.zeros(n)
    for number, ranked in enumerate(generations, 1):
        steps = (ranked[:mu] / spread - centre) / sigma
        moved = np.array([(weights * steps[:, gene]).sum() for gene in range(n)])
        ps = (1 - cs) * ps + np.sqrt(cs * (2 - cs) * mueff) * moved / np.sqrt(variance)
        grown = np.linalg.norm(ps) / np.sqrt(1 - (1 - cs) ** (2 * number)) / chi
        steady = float(grown < 1.4 + 2 / (n + 1))
        pc = (1 - cc) * pc + steady * np.sqrt(cc * (2 - cc) * mueff) * moved
        kept = 1 - c1 - cmu + (1 - steady) * c1 * cc * (2 - cc)
        learnt = np.array([(weights * steps[:, gene] ** 2).sum() for gene in range(n)])
        centre = centre + sigma * moved
        variance = kept * variance + c1 * pc**2 + cmu * learnt
        sigma *= np.exp((np.linalg.norm(ps) / chi - 1) * cs / damps)
    return centre * spread, sigma


def test_the_update_equals_the_published_one() -> None:
    rng = np.random.default_rng(0)
    mean, spread = rng.normal(size=7), rng.uniform(0.05, 2, 7)
    strategy, generations = DiagonalStrategy(mean, spread, 10), []
    for _ in range(30):
        generations.append(np.array(sorted((strategy.draw(rng) for _ in range(10)), key=lambda x: (x**2).sum())))
        strategy.learn(generations[-1])
    by_hand, sigma = learn_by_hand(mean, spread, generations)
    assert strategy.mean == pytest.approx(by_hand, rel=1e-9, abs=1e-12) and strategy.sigma == pytest.approx(sigma)


def test_a_stored_strategy_continues_with_the_same_samples() -> None:
    rng = np.random.default_rng(0)
    first = DiagonalStrategy(np.zeros(5), np.array([0.1, 0.2, 0.0, 0.3, 0.4]), 6)

    def run(strategy: DiagonalStrategy, rng: np.random.Generator) -> np.ndarray:
        for _ in range(5):
            strategy.learn(sorted((strategy.draw(rng) for _ in range(6)), key=lambda x: abs(x - 1).sum()))
        return strategy.draw(rng)

    run(first, rng)
    second = DiagonalStrategy.from_state_dict(json.loads(json.dumps(first.state_dict())))
    drawn = run(first, np.random.default_rng(1))
    assert (run(second, np.random.default_rng(1)) == drawn).all() and drawn[2] == 0


def test_a_state_of_version_0_1_keeps_place_and_step() -> None:
    old = {"mean": [0.5, 0.2, 0.1], "spread": [0.1, 0.0, 0.2], "variance": [4.0, 1.0, 0.25], "size": 8, "sigma": 0.5}
    strategy = DiagonalStrategy.from_state_dict(
        {**old, "path_sigma": [0.1, 0.0, 0.2], "path": [1.0, 0.0, 2.0], "generation": 3}
    )
    assert strategy.mean == pytest.approx([0.5, 0.2, 0.1])
    assert strategy.sigma * strategy.diagD == pytest.approx([0.5 * 0.1 * 2, 0.5 * 0.2 * 0.5])
    assert strategy.pc == pytest.approx([0.1, 0.4]) and strategy.ps == pytest.approx([0.1, 0.2])


@pytest.mark.parametrize(
    ("key", "value"), [("covariance", [1.0]), ("sigma", 0.0), ("size", 0), ("covariance", [1.0, -1.0]), ("mean", [1.0])]
)
def test_a_damaged_state_is_refused(key: str, value: object) -> None:
    state = DiagonalStrategy(np.zeros(2), np.ones(2), 4).state_dict()
    with pytest.raises(ValueError, match="strategy"):
        DiagonalStrategy.from_state_dict({**state, key: value})  # type: ignore[typeddict-item]


def test_a_generation_with_failures_moves_by_the_better_half_of_the_rest() -> None:
    strategy = DiagonalStrategy(np.zeros(2), np.ones(2), 10)
    strategy.learn([np.array([1.0, 1.0]), np.array([-5.0, -5.0])])
    assert strategy.mean == pytest.approx([1.0, 1.0])


def test_the_strategy_finds_the_bottom_of_a_bowl_from_samples_that_come_back_late() -> None:
    rng = np.random.default_rng(0)
    n = 10
    scale, bottom = np.logspace(0, 2, n), rng.normal(size=n)
    held = DiagonalStrategy(np.zeros(n), np.ones(n), 10)

    def height(vector: np.ndarray) -> float:
        return float((scale * (vector - bottom) ** 2).sum())

    start, out = height(held.mean), []
    for _ in range(400):
        while len(out) < 30:  # three times what it learns from at once
            out.append(held.draw(rng))
        back = [out.pop(int(rng.integers(len(out)))) for _ in range(10)]
        held.learn(sorted(back, key=height), bounded=True)
    assert height(held.mean) < 1e-4 * start


def test_the_strategy_finds_the_bottom_of_a_bowl_whose_axes_differ_a_hundredfold() -> None:
    rng = np.random.default_rng(0)
    n = 10
    scale, bottom = np.logspace(0, 2, n), rng.normal(size=n)
    held = DiagonalStrategy(np.zeros(n), np.ones(n), 10)

    def height(vector: np.ndarray) -> float:
        return float((scale * (vector - bottom) ** 2).sum())

    start = height(held.mean)
    for _ in range(200):
        held.learn(sorted((held.draw(rng) for _ in range(10)), key=height))
    assert height(held.mean) < 1e-6 * start
    assert held.diagD[0] / held.diagD[-1] > 3  # it has learnt which axis is steep


def test_genes_that_do_not_vary_stay_where_they_are() -> None:
    rng = np.random.default_rng(0)
    held = DiagonalStrategy(np.array([0.5, 0.25]), np.array([0.1, 0.0]), 6)
    for _ in range(10):
        held.learn(sorted((held.draw(rng) for _ in range(6)), key=lambda vector: vector[0]))
    assert held.mean[1] == 0.25 and held.mean[0] < 0.5
