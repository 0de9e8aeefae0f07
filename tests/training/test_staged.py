"""Training in stages: nested cuts, channels that are silent before they go, and continuation in every stage."""

import copy
import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from decoders import RESNET
from evaluations import load_digits_splits, make_evaluator, make_requests
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from blendsearch.cli.main import main
from blendsearch.errors import ConfigError, TrainingError
from blendsearch.fitness.evaluator import Evaluator, Outcome
from blendsearch.pipeline.problem.inputs import UserInputs, load_hooks
from blendsearch.runs.config.loading import load_config
from blendsearch.runs.run import open_run
from blendsearch.structure.groups import Cut, IndexMaps
from blendsearch.structure.surgery import narrow
from blendsearch.structure.trace import trace_structure
from blendsearch.training.hooks import StepInfo, TrainingHooks
from blendsearch.training.schedule import Schedule
from blendsearch.training.staged import StagePlan, Staging, make_stage_cuts, make_stage_plan, train_in_stages
from blendsearch.training.training_options import CheckpointOptions, TrainingOptions
from blendsearch.training.training_store import FolderStore
from blendsearch.zoo.digits_net import digits_net

CPU = torch.device("cpu")
SPLITS = load_digits_splits(augment=("shift",))
SCHEDULE = Schedule(2, 0.05, 100, warmup=0.1, ema=0.5)
STAGING = Staging(stages=3)


def make_network() -> tuple[nn.Module, IndexMaps]:
    torch.manual_seed(0)
    model = digits_net(width=8).eval()
    return model, trace_structure(model, (1, 8, 8)).maps


def draw_cut(maps: IndexMaps, share: float = 0.3) -> Cut:
    cut = np.random.default_rng(0).random(maps.channels) < share
    cut[maps.offsets[:-1]] = True
    return cut


def make_plan(staging: Staging = STAGING) -> tuple[nn.Module, StagePlan]:
    model, maps = make_network()
    return model, make_stage_plan(model, maps, draw_cut(maps), SPLITS, CPU, staging)


def train_network(staging: Staging = STAGING, schedule: Schedule = SCHEDULE, **options: Any) -> dict[str, torch.Tensor]:
    model, plan = make_plan(staging)
    before = copy.deepcopy(model.state_dict())
    found = train_in_stages(model, plan, SPLITS, schedule, CPU, 3, TrainingOptions(**options))
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert not found.training
    return found.state_dict()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1000), share=st.floats(0.0, 1.0), stages=st.integers(1, 6))
def test_cuts_are_nested_and_fall_geometrically_to_the_last(seed: int, share: float, stages: int) -> None:
    maps, rng = RESNET.maps, np.random.default_rng(seed)
    cut, norms = rng.random(maps.channels) < share, rng.random(maps.channels)
    cuts = make_stage_cuts(maps, cut, norms, stages)
    assert len(cuts) == stages and (cuts[-1] == cut).all()
    assert stages == 1 or cuts[0].all()
    final = np.maximum(1, maps.count_kept(cut))
    for number, (wider, narrower) in enumerate(pairwise(cuts)):
        assert not (narrower & ~wider).any()
        assert (maps.count_kept(narrower) <= maps.count_kept(wider)).all()
        wanted = maps.sizes * (final / maps.sizes) ** (number / (stages - 1))
        assert (np.abs(maps.count_kept(wider) - wanted) <= 0.5 + 1e-9).all()
        for start, size in zip(maps.offsets, maps.sizes, strict=False):
            line = slice(start, start + size)
            gone, later = wider[line] & ~narrower[line], narrower[line] & ~cut[line]
            assert not gone.any() or not later.any() or norms[line][gone].max() <= norms[line][later].min()


@given(steps=st.integers(1, 500), stages=st.integers(1, 6), last=st.floats(0.01, 0.99))
def test_stages_share_all_steps_of_the_schedule(steps: int, stages: int, last: float) -> None:
    staging = Staging(stages, last)
    if steps < stages:
        with pytest.raises(TrainingError, match="steps are too few"):
            staging.compute_bounds(steps)
        return
    bounds = staging.compute_bounds(steps)
    lengths = np.diff(bounds)
    assert (bounds[0], bounds[-1], len(bounds)) == (0, steps, stages + 1) and (lengths > 0).all()
    assert stages == 1 or lengths[:-1].max() - lengths[:-1].min() <= 1
    if stages > 1 and steps > 100:
        assert abs(lengths[-1] - last * steps) <= max(1, stages)


@given(steps=st.integers(1, 300), press=st.floats(0.01, 1.0), power=st.floats(0.5, 4.0))
def test_the_penalty_grows_and_leaves_nothing(steps: int, press: float, power: float) -> None:
    staging = Staging(2, press=press, power=power)
    factors = [staging.compute_factor((step + 1) / steps, steps) for step in range(steps)]
    assert factors[-1] == 0 and all(0 <= factor <= 1 for factor in factors)
    assert (np.diff(factors) < 1e-9).all()
    done = np.arange(1, steps) / steps
    expected = np.minimum(1, (1 - done) / press) ** power
    np.testing.assert_allclose(np.cumprod(factors)[:-1], expected, rtol=1e-6)


def test_what_goes_next_is_silent_before_it_is_cut() -> None:
    model, plan = make_plan()
    bounds = STAGING.compute_bounds(SCHEDULE.count_steps(len(SPLITS.train)))
    networks: list[nn.Module] = []

    def keep(info: StepInfo) -> None:
        if info.step in bounds:
            networks.append(copy.deepcopy(info.module).eval())

    options = TrainingOptions(hooks=TrainingHooks(on_step=keep))
    train_in_stages(model, plan, SPLITS, SCHEDULE, CPU, 3, options)
    images = torch.randn(16, 1, 8, 8)
    assert len(networks) == 3
    for number, network in enumerate(networks[:-1]):
        cut, following = plan.cuts[number : number + 2]
        norms = plan.scaler.compute_norms(network, cut)
        assert following.sum() < cut.sum() and ((norms > 0) == following).all()
        with torch.inference_mode():
            expected = network(images)
            found = narrow(network, plan.maps, following, cut)(images)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.std()))


class Interruption(Exception):
    pass


def interrupt_at(step: int) -> TrainingHooks:
    def raise_at(info: StepInfo) -> None:
        if info.step == step:
            raise Interruption

    return TrainingHooks(on_step=raise_at)


def list_entries(store: FolderStore) -> set[str]:
    return {path.stem for path in store.folder.iterdir()}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("at", [2, 4, 5, 6, 9, 10, 15])
def test_an_interrupted_training_ends_bit_for_bit_the_same(tmp_path: Path, optimizer: str, at: int) -> None:
    schedule = dataclasses.replace(SCHEDULE, optimizer=optimizer)
    steps = schedule.count_steps(len(SPLITS.train))
    assert STAGING.compute_bounds(steps) == [0, 4, 8, 16]
    wanted = train_network(schedule=schedule)
    store = FolderStore(tmp_path / "training")
    options = CheckpointOptions(store, "net", seconds=0.0)
    with pytest.raises(Interruption):
        train_network(schedule=schedule, checkpoints=options, hooks=interrupt_at(at))
    assert list_entries(store) == {"net-stage-0" if at <= 5 else "net-stage-1" if at <= 9 else "net"}
    seen: list[int] = []
    hooks = TrainingHooks(on_step=lambda info: seen.append(info.step))
    found = train_network(schedule=schedule, checkpoints=options, hooks=hooks)
    assert seen == list(range(at, steps + 1))
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    assert list_entries(store) == {"net"}
    seen.clear()
    again = train_network(schedule=schedule, checkpoints=options, hooks=hooks)
    assert not seen and all(torch.equal(again[name], tensor) for name, tensor in wanted.items())


def test_states_that_survive_a_kill_between_save_and_delete_go_later(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "training")
    options = CheckpointOptions(store, "net", seconds=0.0)
    with pytest.raises(Interruption):
        train_network(checkpoints=options, hooks=interrupt_at(4))
    first = store.load("net-stage-0")
    with pytest.raises(Interruption):
        train_network(checkpoints=options, hooks=interrupt_at(7))
    assert first is not None and list_entries(store) == {"net-stage-1"}
    store.save("net-stage-0", first)
    seen: list[int] = []
    found = train_network(checkpoints=options, hooks=TrainingHooks(on_step=lambda info: seen.append(info.step)))
    assert seen[0] == 7 and list_entries(store) == {"net"}
    assert all(torch.equal(found[name], tensor) for name, tensor in train_network().items())


def test_states_of_other_stages_are_ignored(tmp_path: Path) -> None:
    options = CheckpointOptions(FolderStore(tmp_path), "net", seconds=0.0)
    with pytest.raises(Interruption):
        train_network(checkpoints=options, hooks=interrupt_at(7))
    other = Staging(3, power=1.0)
    found, wanted = train_network(other, checkpoints=options), train_network(other)
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    assert any((wanted[name] != tensor).any() for name, tensor in train_network().items())


def make(store: FolderStore | None = None, **recipe: Any) -> Evaluator:
    evaluator = make_evaluator(repair=True)
    changed = dataclasses.replace(evaluator.recipe, checkpoint_seconds=0.0, staging=STAGING, **recipe)
    changes: dict[str, Any] = {"recipe": changed} | ({} if store is None else {"store": store})
    return dataclasses.replace(evaluator, **changes)


def assert_same(first: Outcome, second: Outcome) -> None:
    assert (first.loss, first.error) == (second.loss, second.error)
    assert first.weights is not None and second.weights is not None
    for name, array in first.weights.items():
        np.testing.assert_array_equal(second.weights[name], array)


def test_a_search_trains_its_finals_in_stages(quick: dict[str, Any], tmp_path: Path) -> None:
    quick["finals"] = {"picks": 1, "stages": 3, "staging": {"press": 0.5}, "tuning": {"epochs": 2, "rate": 0.05}}
    quick["search"] = {"evaluations": 8, "population": 4}
    quick["training"] = {"checkpoint_seconds": 1e-6}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(quick))
    main(["search", str(config), "--runs", str(tmp_path), "--name", "one"])
    run = open_run(tmp_path, "one")
    finals = run.open_store(read_only=True).read_finals()
    assert finals and all(run.has_weights(item.digest, item.repeat) for item in finals)
    assert not (run.path / "training").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["finals.workers=2"], "workers cannot train together"),
        (["transform=depthwise"], "decomposed layers are cut at once"),
        (["training.train_fn=mine:train"], "excludes a user-defined train_fn"),
        (["training.scheduler=mine:schedule"], "excludes a user-defined scheduler"),
    ],
)
def test_what_cannot_be_trained_in_stages_is_refused_in_one_line(
    config_file: Path, changes: list[str], message: str
) -> None:
    load_config(config_file, changes)
    with pytest.raises(ConfigError, match=rf"finals.stages is 3.*{message}.*finals.stages to 1") as refused:
        load_config(config_file, [*changes, "finals.stages=3"])
    assert "\n" not in str(refused.value)


def test_python_functions_are_refused_as_those_of_a_config(config_file: Path) -> None:
    config = load_config(config_file, ["finals.stages=3"])
    assert load_hooks(config, UserInputs(hooks=TrainingHooks(on_epoch=print))).on_epoch is print
    with pytest.raises(ConfigError, match="excludes a user-defined train_fn"):
        load_hooks(config, UserInputs(hooks=TrainingHooks(train_fn=lambda module, context: None)))


def test_decomposable_layers_are_refused() -> None:
    model, maps = make_network()
    with pytest.raises(TrainingError, match="decomposed layers are not cut in stages"):
        make_stage_plan(model, dataclasses.replace(maps, layers=("conv",)), draw_cut(maps), SPLITS, CPU, STAGING)


@pytest.mark.parametrize("distillation", [0.0, 0.5])
def test_a_final_is_trained_in_stages_and_continues(tmp_path: Path, distillation: float) -> None:
    (request,) = make_requests(1, "final")
    request = request._replace(return_weights=True, rate=0.05)
    recipe: dict[str, Any] = {"final": Schedule(5, float("nan"), 32), "distillation": distillation, "views": 2}
    store = FolderStore(tmp_path / "training")
    with pytest.raises(Interruption):
        make(store, **recipe, hooks=interrupt_at(50)).evaluate(request)
    wanted = make(**recipe).evaluate(request)
    assert_same(wanted, make(store, **recipe).evaluate(request))
    assert list_entries(store) == {request.key} | ({"teacher"} if distillation else set())
    evaluator = make(**recipe)
    once = dataclasses.replace(evaluator, recipe=dataclasses.replace(evaluator.recipe, staging=Staging()))
    plain = once.evaluate(request)
    assert plain.weights is not None and wanted.weights is not None
    assert {name: array.shape for name, array in plain.weights.items()} == {
        name: array.shape for name, array in wanted.weights.items()
    }
    assert plain.loss != wanted.loss and wanted.error < 0.5
