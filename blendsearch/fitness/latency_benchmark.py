"""Latency measurements of pruned networks beside the dense one, and the latency model fitted to them."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from blendsearch.blend.allocation import Budget, Widths, allocate
from blendsearch.blend.block_removal import allocate_without_blocks, choose_removed_blocks
from blendsearch.fitness.timers import BenchmarkSettings, Timer, make_timer
from blendsearch.structure.cost import CostOracle
from blendsearch.structure.groups import Cut, IndexMaps
from blendsearch.structure.latency_model import LatencyModel, extract_layers, fit_latency_model
from blendsearch.structure.surgery import narrow
from blendsearch.training.device import autocast

FASTEST_SECONDS = 0.5
"""Seconds after which the search for the fastest pass of a network ends, after at least `repeats` passes."""

MAX_ROUNDS = 100
"""Largest number of passes among which the fastest one is found."""

NETWORKS_PER_ROUND = 8
"""Networks that take turns with the dense one. More would evict each other's weights from the caches for longer."""


LatencyMeasurement = Callable[[nn.Module, IndexMaps, Sequence[Cut], BenchmarkSettings], NDArray[np.float64]]
"""From a network and cuts to the seconds of one pass of the dense network and of each cut, (cuts, 2)."""


def measure_latencies(
    model: nn.Module, maps: IndexMaps, cuts: Sequence[Cut], conditions: BenchmarkSettings
) -> NDArray[np.float64]:
    """Measure the seconds of one pass of the dense network and of each cut: (cuts, 2), medians.

    Runs in the runtime of `conditions`, torch on the device of `model`, after a warm-up. A few cuts and the dense
    network take turns, and each round is divided by how slow it was for all of them. This cancels other load of the
    machine, so the ratio of a row is steadier than its seconds.
    """
    if not cuts:
        return np.empty((0, 2))
    rows, dense = [], make_timer(model, conditions)
    for start in range(0, len(cuts), NETWORKS_PER_ROUND):
        pruned = (narrow(model, maps, cut) for cut in cuts[start : start + NETWORKS_PER_ROUND])
        timers = [dense, *(make_timer(network, conditions) for network in pruned)]
        with _use_conditions(model, conditions):
            passes = [timer.warm_up() for timer in timers]
            seconds = np.array(
                [
                    [timer.time(count) for timer, count in zip(timers, passes, strict=True)]
                    for _ in range(conditions.repeats)
                ]
            )
        each = _polish_medians(seconds)
        rows.append(np.stack([np.full(len(each) - 1, each[0]), each[1:]], axis=1))
    return np.concatenate(rows)


def measure_fastest_passes(
    model: nn.Module, maps: IndexMaps, cuts: Sequence[Cut], conditions: BenchmarkSettings
) -> NDArray[np.float64]:
    """Measure the seconds of the fastest pass of the dense network and of each cut: (cuts, 2).

    Each cut and the dense network take turns, pass by pass. On a machine that other processes use, the fastest pass is
    far steadier than the median one: they only ever make a pass slower.
    """
    if not cuts:
        return np.empty((0, 2))
    rows, dense = [], make_timer(model, conditions)
    for cut in cuts:
        timers = [dense, make_timer(narrow(model, maps, cut), conditions)]
        with _use_conditions(model, conditions):
            rows.append(_find_fastest(timers, conditions.repeats))
    return np.array(rows)


def _find_fastest(timers: Sequence[Timer], repeats: int) -> NDArray[np.float64]:
    """Time all timers in turns; return the seconds of each one's fastest pass."""
    for timer in timers:
        timer.warm_up()
    start, rounds, fastest = time.perf_counter(), 0, np.full(len(timers), np.inf)
    while rounds < repeats or (rounds < MAX_ROUNDS and time.perf_counter() - start < FASTEST_SECONDS):
        fastest = np.minimum(fastest, [timer.time(1) for timer in timers])
        rounds += 1
    return fastest


@contextlib.contextmanager
def _use_conditions(model: nn.Module, conditions: BenchmarkSettings) -> Iterator[None]:
    """Run passes of torch without gradients and in the precision of `conditions`."""
    with torch.inference_mode(), autocast(next(model.parameters()).device, conditions.precision):
        yield


def _polish_medians(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each network's seconds in the median round: (rounds, networks) -> (networks,).

    Tukey's median polish of the logarithms: a time is a factor of its network times a factor of its round.
    """
    logs = np.log(seconds)
    rounds = np.zeros(len(logs))
    for _ in range(5):
        networks = np.median(logs - rounds[:, None], axis=0)
        rounds = np.median(logs - networks, axis=1)
        rounds -= np.median(rounds)
    return np.asarray(np.exp(np.median(logs - rounds[:, None], axis=0)))


def build_latency_model(
    model: nn.Module,
    maps: IndexMaps,
    oracle: CostOracle,
    allowed: Widths,
    budgets: Callable[[float], Budget],
    conditions: BenchmarkSettings,
    cuts: int,
    rng: np.random.Generator,
) -> LatencyModel:
    """Measure `cuts` pruned networks and fit the latency model.

    A third of them are spread from the narrowest to the dense network. The others are decoded from random genomes under
    the run's budgets and the model so far; `budgets` returns the budget at a target in [0, 1]. The margin is calibrated
    on those.
    """
    spread = max(2, cuts // 3)
    layers = extract_layers(oracle, counted=bool(allowed.blocks))
    counts = np.stack([_draw_widths(allowed, rng) for _ in range(spread)])
    seconds = _time_random_cuts(model, maps, counts, conditions, rng)

    dense = int(np.median(seconds[:, 0]) * 1e9)
    ratios = seconds[:, 1] / seconds[:, 0]
    first = fit_latency_model(layers, counts, ratios, dense, np.ones(spread, dtype=np.bool_))
    # without its margin, so that cuts are near the budget
    so_far = oracle.add_cost("latency", replace(first, margin=0.0), dense)
    drawn = []
    for _ in range(cuts - spread):
        # candidates have shares near zero and far from it, so small and large ones are drawn
        share = rng.uniform(-1, 1, len(allowed.sizes)) * rng.random()
        drawn.append(_draw_allocation(so_far, allowed, budgets(float(rng.random())), share, rng))
    likely = np.stack(drawn)
    seconds = np.concatenate([seconds, _time_random_cuts(model, maps, likely, conditions, rng)])

    counts = np.concatenate([counts, likely])
    calibration_mask = np.arange(cuts) >= spread
    dense = int(np.median(seconds[:, 0]) * 1e9)
    return fit_latency_model(layers, counts, seconds[:, 1] / seconds[:, 0], dense, calibration_mask)


def _time_random_cuts(
    model: nn.Module,
    maps: IndexMaps,
    counts: NDArray[np.int64],
    conditions: BenchmarkSettings,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    return measure_latencies(model, maps, [_draw_cut(maps, row, rng) for row in counts], conditions)


def _draw_cut(maps: IndexMaps, counts: NDArray[np.int64], rng: np.random.Generator) -> Cut:
    """Draw random channels: which ones are kept does not affect the latency."""
    return np.concatenate([rng.permutation(size) < kept for size, kept in zip(maps.sizes, counts, strict=True)])


def _draw_widths(allowed: Widths, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw widths around one random keep ratio, each group with its own random factor; zero in random blocks."""
    ratio = rng.uniform(0.05, 1.0) * np.exp(rng.normal(0, 0.4, len(allowed.sizes)))
    widths = allowed.round(np.minimum(ratio, 1.0) * allowed.sizes)
    return widths * allowed.find_kept_groups(_draw_removed_blocks(allowed, rng)) if allowed.blocks else widths


def _draw_allocation(
    oracle: CostOracle, allowed: Widths, budget: Budget, share: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Allocate `budget` by shares, (groups,), after random blocks are removed."""
    budget = _clip_budget(budget, oracle, allowed)
    if not allowed.blocks:
        return allocate(oracle, allowed, budget, share)
    genes = np.where(_draw_removed_blocks(allowed, rng), 1.0, -1.0) * rng.random(len(allowed.blocks))
    removed = choose_removed_blocks(oracle, allowed, budget, genes)
    return allocate_without_blocks(oracle, allowed, budget, share, removed)


def _draw_removed_blocks(allowed: Widths, rng: np.random.Generator) -> NDArray[np.bool_]:
    return rng.random(len(allowed.blocks)) < rng.random()


def _clip_budget(budget: Budget, oracle: CostOracle, allowed: Widths) -> Mapping[str, float]:
    """Raise `budget` to the cost of the narrowest network: the first model may predict less room than there is."""
    return {name: max(ratio, float(oracle.compute_ratio(name, allowed.least))) for name, ratio in budget.items()}
