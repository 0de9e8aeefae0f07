"""Derived rates: the arithmetic against plain loops, the known answer, and going on after a stop."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from known_nets import quick_on

from blendsearch.blend.allocation import make_widths
from blendsearch.engine.local import LocalEngine
from blendsearch.events import Event, MethodProgress, Reporter, ignore_event
from blendsearch.pipeline.methods.derived.gradients import FLOOR, Filters, measure_gradients
from blendsearch.pipeline.methods.derived.method import Derivation, derive_widths
from blendsearch.pipeline.methods.derived.rates import (
    clip_to_trust_region,
    compute_pruning_errors,
    compute_thresholds,
    interpolate_widths,
    select_widths,
)
from blendsearch.pipeline.methods.derived.spec import DerivedConfig
from blendsearch.pipeline.problem.builder import build_problem
from blendsearch.pipeline.problem.persistence import record
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.pipeline.problem.session import SearchSession
from blendsearch.runs.config.loading import parse_config
from blendsearch.runs.run import Run
from blendsearch.structure.surgery import narrow
from blendsearch.structure.trace import trace_structure
from blendsearch.task import CLASSIFICATION
from blendsearch.zoo.cifar_resnet import cifar_resnet
from blendsearch.zoo.digits_net import digits_net


def make_session(run: Run, problem: Problem, report: Reporter = ignore_event) -> SearchSession:
    return SearchSession(run, problem, LocalEngine(problem.evaluator), run.open_store(), report)


@given(st.integers(0, 10_000), st.floats(0.0, 2.0))
def test_a_threshold_is_room_times_inverse_gradient_averaged_over_batches(seed: int, margin: float) -> None:
    rng = np.random.default_rng(seed)
    losses, inverses, before = rng.random(5), rng.lognormal(0, 2, (5, 3)), float(rng.random())
    expected = np.zeros(3)
    for group in range(3):
        for batch in range(5):
            expected[group] += max(before * (1 + margin) - losses[batch], 0) * inverses[batch, group] / 5
    found = compute_thresholds(losses, inverses, before, margin)
    np.testing.assert_allclose(found, expected)
    for bound in (0.1, 1.0, 1e9):
        inside = clip_to_trust_region(found, bound)
        assert np.linalg.norm(inside) <= bound * (1 + 1e-9)
        assert np.linalg.norm(found) > bound or (inside == found).all()
        assert np.isclose(inside @ found, np.linalg.norm(inside) * np.linalg.norm(found))  # only scaled


def test_a_group_that_the_loss_does_not_hear_has_no_threshold() -> None:
    inverses = np.array([[1.0, np.inf, np.inf], [3.0, np.inf, 5.0]])
    found = compute_thresholds(np.zeros(2), inverses, 1.0, 0.0)
    assert found.tolist() == [2.0, np.inf, 5.0]
    assert clip_to_trust_region(found, 1.0)[1] == np.inf and np.isclose(
        np.linalg.norm(clip_to_trust_region(found, 1.0)[[0, 2]]), 1.0
    )
    assert (compute_thresholds(np.full(2, 9.0), inverses, 1.0, 0.0) == 0).all()  # no room is no room


@given(st.integers(0, 10_000))
def test_each_group_takes_the_largest_rate_whose_error_is_not_over_its_threshold(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 40, 4)
    filters, weights = [rng.lognormal(0, 1, size) for size in sizes], sizes * 9.0
    allowed, limits, ladder = make_widths(sizes, 1, 0.0, 1), rng.random(4) * 0.1, (0.5, 0.3, 0.1)
    found = select_widths(filters, weights, allowed, limits, ladder)
    for values, weight, limit, kept in zip(filters, weights, limits, found, strict=True):
        taken = [0]
        for rate in ladder:
            gone = int(np.floor(rate * len(values) + 1e-9))
            if sorted(values)[:gone] and sum(sorted(values)[:gone]) / weight <= limit:
                taken.append(gone)
        assert len(values) - kept == max(taken)
    assert (compute_pruning_errors(filters, weights, found) <= limits).all()


def test_between_steps_the_way_is_straight_and_then_goes_on() -> None:
    counts = [np.array([100, 100]), np.array([80, 100]), np.array([40, 90])]
    assert interpolate_widths(counts, 0.0).tolist() == [100, 100]
    assert interpolate_widths(counts, -0.5).tolist() == [90, 100]
    assert interpolate_widths(counts, -1.5).tolist() == [60, 95]
    assert interpolate_widths(counts, -2.0).tolist() == [40, 90]
    np.testing.assert_allclose(interpolate_widths(counts, -4.0), [32.4, 72.9])  # all by one ratio
    np.testing.assert_allclose(interpolate_widths(counts[:1], -1.0), [90, 90])


def test_filters_are_those_of_all_coupled_layers() -> None:
    torch.manual_seed(0)
    module = digits_net(width=6)
    structure = trace_structure(module, (1, 8, 8))
    maps = structure.maps
    cut = np.random.default_rng(0).random(maps.channels) < 0.7
    cut[maps.offsets[:-1]] = True
    small = narrow(module, maps, cut).eval()
    images, labels = torch.randn(16, 1, 8, 8), torch.arange(16) % 10
    filters = Filters(maps, cut, small)
    found = measure_gradients(small, filters, CLASSIFICATION, [(images, labels)])
    loss = F.cross_entropy(small(images), labels)
    loss.backward()
    assert found.losses.tolist() == pytest.approx([loss.item()])
    sizes, weights = filters.compute_l1_norms(small), filters.count_weights(small)
    names = [group.name for group in maps.groups]
    stem, inner = (next(i for i, name in enumerate(names) if name.startswith(start)) for start in ("stem", "inner"))
    for group, layers in ((stem, [small.stem[0], small.outer[0]]), (inner, [small.inner[0]])):
        magnitudes = sum(layer.weight.detach().abs().sum(dim=(1, 2, 3)).double().numpy() for layer in layers)
        mine = slice(maps.offsets[group], maps.offsets[group + 1])
        np.testing.assert_allclose(sizes[mine][cut[mine]], magnitudes)
        assert (sizes[mine][~cut[mine]] == 0).all()
        assert weights[group] == sum(layer.weight.numel() for layer in layers)
        slopes = torch.cat([layer.weight.grad.abs().flatten() for layer in layers]).double().numpy()
        inverse = [1 / max(value, FLOOR * slopes.mean()) for value in slopes]
        np.testing.assert_allclose(found.inverses[0, group], np.mean(inverse), rtol=1e-6)


def test_a_padded_shortcut_has_no_filters() -> None:
    module = cifar_resnet(depth=20).eval()
    maps = trace_structure(module, (3, 32, 32)).maps
    filters = Filters(maps, maps.make_unpruned_cut(), module)
    weights = filters.count_weights(module)
    assert (weights > 0).all()
    convolutions = {name: tensor.numel() for name, tensor in module.named_parameters() if tensor.ndim == 4}
    assert weights.sum() <= sum(convolutions.values())
    found = measure_gradients(module, filters, CLASSIFICATION, [(torch.randn(4, 3, 32, 32), torch.arange(4))])
    assert np.isfinite(found.inverses).all()


def test_a_network_cut_twice_is_the_one_cut_at_once() -> None:
    module = digits_net(width=6).eval()
    maps = trace_structure(module, (1, 8, 8)).maps
    rng = np.random.default_rng(1)
    once = rng.random(maps.channels) < 0.8
    once[maps.offsets[:-1]] = True
    twice = once & (rng.random(maps.channels) < 0.8)
    twice[maps.offsets[:-1]] = True
    images = torch.randn(4, 1, 8, 8)
    both = narrow(narrow(module, maps, once), maps, twice, previous_cut=once)
    with torch.inference_mode():
        assert torch.equal(both(images), narrow(module, maps, twice)(images))
    with pytest.raises(ValueError, match="previous_cut removed"):
        narrow(module, maps, maps.make_unpruned_cut(), previous_cut=once)


def prepared(quick: dict[str, Any], weights: Path, folder: Path, **changes: Any) -> tuple[Problem, Run]:
    rules = {"batches": 4, "steps": 6, "tuning": {"epochs": 0.5, "rate": 0.02, "batch_size": 64}}
    tree = quick_on(quick, weights, method="derived", derived=rules) | changes
    problem = build_problem(parse_config(tree, "test"), ignore_event)
    return problem, record(problem, folder, "one", [])


def test_the_first_step_takes_the_largest_rate_of_what_is_provably_useless(
    quick: dict[str, Any], useless: Path, tmp_path: Path
) -> None:
    tolerant = {"batches": 4, "steps": 6, "tolerance": 0.9, "tuning": {"epochs": 0.5, "rate": 0.02, "batch_size": 64}}
    problem, _ = prepared(quick, useless, tmp_path, derived=tolerant)  # the step stands whatever retraining gives
    derivation = Derivation(problem)
    state, _ = derivation.step(*derivation.start())
    names = [group.name for group in problem.structure.maps.groups]
    inner = next(number for number, name in enumerate(names) if name.startswith("inner"))
    gone = 1 - np.array(state.counts[-1]) / problem.structure.maps.sizes
    assert gone[inner] == 0.5 and (np.delete(gone, inner) < 0.5).any()


def test_it_ends_at_the_budget_and_goes_on_where_it_was_stopped(
    quick: dict[str, Any], useless: Path, tmp_path: Path
) -> None:
    problem, run = prepared(quick, useless, tmp_path / "a")
    whole = derive_widths(make_session(run, problem))
    assert whole.cut is not None and whole.weights is not None
    oracle, maps = problem.structure.oracle, problem.structure.maps
    counts = maps.count_kept(whole.cut)
    assert 0.45 <= float(oracle.compute_ratio("macs", counts)) <= 0.5
    assert np.abs(whole.rule.widths(oracle, {"macs": 0.5}) - counts).max() <= 1
    for ratio in (0.9, 0.7, 0.3, 0.1):  # and at budgets that it did not stop at
        assert ratio - 0.1 <= float(oracle.compute_ratio("macs", whole.rule.widths(oracle, {"macs": ratio}))) <= ratio
    other, stopped = prepared(quick, useless, tmp_path / "b")

    def stop(event: Event) -> None:
        if isinstance(event, MethodProgress) and event.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        derive_widths(make_session(stopped, other, stop))
    events: list[Any] = []
    again = derive_widths(make_session(stopped, other, events.append))
    assert events[0].done == 3
    assert again.cut is not None and (again.cut == whole.cut).all()
    assert again.weights is not None
    assert all(np.array_equal(again.weights[name], array) for name, array in whole.weights.items())
    assert derive_widths(make_session(stopped, other, _never)).cut is not None  # what is over is not done again


def _never(event: Event) -> None:
    raise AssertionError(f"{event.kind} again")


@pytest.mark.slow
def test_the_retrained_network_keeps_the_accuracy_of_the_digits(tmp_path: Path) -> None:
    tree = {
        "method": "derived",
        "model": {"factory": "digits_net", "train": {"epochs": 20, "rate": 0.1, "batch_size": 64}},
        "data": {"dataset": "digits", "val_size": 0.3},
        "budget": {"macs": 0.4},
        "fitness": {"device": "cpu"},
        "engine": {"threads": 1},
    }
    problem = build_problem(parse_config(tree, "test"), ignore_event)
    run = record(problem, tmp_path, "one", ["test"])
    steps: list[MethodProgress] = []

    def report(event: Event) -> None:
        if isinstance(event, MethodProgress):
            steps.append(event)

    derive_widths(make_session(run, problem, report))
    assert steps[-1].facts["macs_ratio"] <= 0.4 and steps[-1].facts["val_accuracy"] >= 0.96
    assert len(steps) < problem.config.get_options(DerivedConfig).steps  # no step was forced
