"""Tailored training: what is silent is gone, the budget is reached exactly, and a killed run ends as it would have."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from decoders import RESNET
from hypothesis import given
from hypothesis import strategies as st
from known_nets import quick_on

from blendsearch.blend.allocation import compute_min_ratios, make_widths
from blendsearch.cli.main import main
from blendsearch.engine.local import LocalEngine
from blendsearch.errors import BudgetError, RunError
from blendsearch.events import Reporter, ignore_event
from blendsearch.pipeline.methods.tailored.method import TailoredTraining, TrainingState, train_tailored
from blendsearch.pipeline.methods.tailored.shrinkage import Shrinkage
from blendsearch.pipeline.problem.builder import build_problem
from blendsearch.pipeline.problem.persistence import record
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.pipeline.problem.session import SearchSession
from blendsearch.runs.array_checkpoint import load_array_checkpoint, save_array_checkpoint
from blendsearch.runs.config.loading import parse_config
from blendsearch.runs.run import Run, open_run
from blendsearch.structure.surgery import narrow
from blendsearch.structure.trace import trace_structure
from blendsearch.training.channel_norms import ChannelScaler
from blendsearch.zoo.factory import build_model

SIZES = RESNET.maps.sizes


def make_session(run: Run, problem: Problem, report: Reporter = ignore_event) -> SearchSession:
    return SearchSession(run, problem, LocalEngine(problem.evaluator), run.open_store(), report)


@given(st.integers(0, 10_000), st.floats(0.1, 1.0), st.sampled_from([1, 8]), st.sampled_from(["macs", "params"]))
def test_the_cut_at_arrival_meets_the_budget_and_leaves_no_room(seed: int, ratio: float, step: int, cost: str) -> None:
    rng = np.random.default_rng(seed)
    allowed = make_widths(SIZES, 2, 0.05, step)
    ratio = max(ratio, compute_min_ratios(RESNET.oracle, allowed)[cost])
    weights = np.repeat(rng.lognormal(0, 1, len(SIZES)), SIZES)
    norms = rng.random(RESNET.maps.channels) * (rng.random(RESNET.maps.channels) < 0.9)
    press = Shrinkage(RESNET.oracle, allowed, {cost: ratio}, weights)
    level, kept = press.compute_level(norms), press.make_cut(norms)
    counts = RESNET.maps.count_kept(kept)
    assert float(RESNET.oracle.compute_ratio(cost, counts)) <= ratio
    assert (counts >= allowed.low).all() and ((counts % allowed.step == 0) | (counts == SIZES)).all()
    # what went is not above the level, unless rounding or the least widths ask for more channels than that leaves
    assert (norms[~kept] / weights[~kept] <= level).all()
    if step == 1:
        for group in np.unique(press.group_index[~kept & (norms > 0)]):
            wider = counts + (np.arange(len(SIZES)) == group)
            assert float(RESNET.oracle.compute_ratio(cost, wider)) > ratio  # there was no room for it


def test_the_level_is_the_least_that_meets_the_budget() -> None:
    rng = np.random.default_rng(0)
    norms, weights = rng.random(RESNET.maps.channels), np.ones(RESNET.maps.channels)
    allowed = make_widths(SIZES, 1, 0.0, 1)
    press = Shrinkage(RESNET.oracle, allowed, {"macs": 0.5}, weights)
    level = press.compute_level(norms)
    at = RESNET.maps.count_kept((norms > level) | press.select_protected(norms))
    above = RESNET.maps.count_kept((norms >= level) | press.select_protected(norms))
    assert float(RESNET.oracle.compute_ratio("macs", at)) <= 0.5 < float(RESNET.oracle.compute_ratio("macs", above))


@pytest.mark.parametrize(
    ("factory", "shape", "whole"),
    [
        ("cifar_resnet", (3, 32, 32), 1),  # the middle stage's stream
        ("cifar_vgg16_bn", (3, 32, 32), 0),
        ("torchvision:mobilenet_v2", (3, 64, 64), 0),
    ],
)
def test_a_channel_at_zero_can_be_cut_without_changing_anything(
    factory: str, shape: tuple[int, int, int], whole: int
) -> None:
    torch.manual_seed(0)
    model = build_model(factory, {}).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias)
    structure = trace_structure(model, shape)
    maps = structure.maps
    images = torch.randn(2, *shape)
    scales = ChannelScaler(model, maps, images)
    assert scales.unscalable_groups.sum() == whole
    cut = np.random.default_rng(0).random(maps.channels) < 0.6
    cut |= scales.unscalable_groups[np.repeat(np.arange(len(maps.groups)), maps.sizes)]
    cut[maps.offsets[:-1]] = True
    before = scales.compute_norms(model)
    scales.scale(model, np.full(maps.channels, 0.5))
    np.testing.assert_allclose(scales.compute_norms(model), before, rtol=1e-5)  # a scale that all share says nothing
    scales.scale(model, cut.astype(np.float64))
    after = scales.compute_norms(model)
    np.testing.assert_allclose(np.bincount(scales.group_index, after) / maps.sizes, 1.0)
    assert ((after == 0) == ~cut).all()
    with torch.inference_mode():
        expected = model(images)
        torch.testing.assert_close(
            narrow(model, maps, cut)(images), expected, rtol=1e-4, atol=1e-4 * float(expected.std())
        )


def tuned(epochs: int) -> dict[str, Any]:
    return {"tuning": {"epochs": epochs, "rate": 0.05, "batch_size": 64}, "arrival": 0.5}


@pytest.mark.parametrize("budget", [{"macs": 0.5}, {"params": 0.4}, {"macs": 0.6, "params": 0.4}])
def test_it_arrives_at_the_budget_in_training_and_is_as_good_cut_as_whole(
    quick: dict[str, Any], useless: Path, tmp_path: Path, budget: dict[str, float]
) -> None:
    tree = quick_on(quick, useless, method="tailored", tailored=tuned(8), budget=budget)
    problem = build_problem(parse_config(tree, "test"), ignore_event)
    events: list[Any] = []
    found = train_tailored(make_session(record(problem, tmp_path, "one", []), problem, events.append))
    assert found.cut is not None and found.weights is not None
    maps, oracle = problem.structure.maps, problem.structure.oracle
    counts = maps.count_kept(found.cut)
    spent = {name: float(oracle.compute_ratio(name, counts)) for name in budget}
    assert all(spent[name] <= most for name, most in budget.items())
    assert any(spent[name] > most - 0.08 for name, most in budget.items())  # a channel here is up to 8 % of all
    assert [item.facts["arrived"] for item in events] == [False] * 3 + [True] * 5
    module = narrow(problem.model, maps, found.cut)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in found.weights.items()})
    _, error = problem.evaluator.measure(module, "val")
    assert 1 - error == events[-1].facts["val_accuracy"] > 0.8


def test_at_the_end_of_the_epoch_of_arrival_cutting_changes_nothing(quick: dict[str, Any], useless: Path) -> None:
    problem = build_problem(
        parse_config(quick_on(quick, useless, method="tailored", tailored=tuned(4)), "test"), ignore_event
    )
    taken: list[torch.nn.Module] = []

    class Watched(TailoredTraining):
        def _set_module(self, module: torch.nn.Module) -> None:
            taken.append(module)
            super()._set_module(module)

    held = Watched(problem)
    held.begin(TrainingState(), {})
    state = held.train(held.train(TrainingState()))
    assert state.narrowed and len(taken) == 2
    images = torch.randn(8, 1, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(taken[1](images), taken[0].eval()(images), rtol=1e-4, atol=1e-5)
    silenced, stayed = state.last
    assert silenced < stayed  # after so few steps it is no smaller than that


def test_a_budget_that_needs_a_group_which_cannot_be_pressed_is_refused(quick: dict[str, Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("train", "test"):
        images = rng.integers(0, 256, (80, 32, 32, 3), dtype=np.uint8)
        np.savez(tmp_path / f"{name}.npz", x=images, y=np.arange(80) % 10)
    files = {name: str(tmp_path / f"{name}.npz") for name in ("train", "test")}
    tree = quick | {
        "model": {"factory": "cifar_resnet", "arguments": {"depth": 8}, "train": {"epochs": 1, "batch_size": 40}},
        "data": {"dataset": "npz", "val_size": 0.3, **files},
        "criteria": {"pool": ["l1"], "images": 40},
        "method": "tailored",
        "budget": {"macs": 0.02, "round_to": 1},
    }
    problem = build_problem(parse_config(tree, "test"), ignore_event)
    with pytest.raises(BudgetError, match="no cut keeps 2% of the dense macs: reachable is"):
        TailoredTraining(problem)


def killed(folder: Path, tree: dict[str, Any], name: str, epochs: int) -> None:
    """Search `tree` in a process of its own, and kill it once its training has stored that many epochs."""
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree))
    words = [sys.executable, "-m", "blendsearch", "search", str(path), "--runs", str(folder), "--name", name]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    mark = folder / name / "tailored" / f"generation-{epochs:05d}.json"
    try:
        deadline = time.monotonic() + 120
        while not mark.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert mark.exists() and not (folder / name / "finished.json").exists()


@pytest.mark.slow  # test_golden.py resumes a run of this method that was killed
@pytest.mark.parametrize("epochs", [2, 6])  # before arrival, and after
def test_a_killed_run_goes_on_from_its_last_epoch_and_ends_the_same(
    quick: dict[str, Any], useless: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], epochs: int
) -> None:
    tree = quick_on(quick, useless, method="tailored", tailored=tuned(9))
    del tree["search"], tree["criteria"]
    path = tmp_path / "whole.yaml"
    path.write_text(yaml.safe_dump(tree))
    main(["search", str(path), "--runs", str(tmp_path), "--name", "whole"])
    killed(tmp_path, tree, "cut-short", epochs)
    capsys.readouterr()
    main(["resume", "cut-short", "--runs", str(tmp_path), "--json"])
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith('{"event"')]
    assert epochs < min(item["epoch"] for item in events if item["event"] == "tailored")
    one, other = open_run(tmp_path, "whole"), open_run(tmp_path, "cut-short")
    (final,), (again,) = one.open_store(read_only=True).read_finals(), other.open_store(read_only=True).read_finals()
    assert final._replace(seconds=0) == again._replace(seconds=0)
    first, second = one.read_weights(final.digest, 0), other.read_weights(final.digest, 0)
    assert first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)
    # and the network leaves with the weights that it was trained to
    main(["export", "cut-short", "--runs", str(tmp_path), "--pick", "best", "--to", str(tmp_path / "out")])
    facts = json.loads((tmp_path / "out" / "network.json").read_text())
    assert facts["fidelity"] == "final" and facts["val_loss"] == final.loss
    assert facts["macs"] <= 0.5 * facts["dense"]["macs"]


def test_a_stage_is_read_as_it_was_written_and_damage_is_refused(tmp_path: Path) -> None:
    assert load_array_checkpoint(tmp_path, print) is None
    for number in range(1, 6):
        save_array_checkpoint(tmp_path, number, {"epoch": number}, {"w": np.full(3, number)})
    assert len(list(tmp_path.glob("arrays-*.safetensors"))) == 3
    found = load_array_checkpoint(tmp_path, print)
    assert found is not None and found[0] == {"epoch": 5} and found[1]["w"].tolist() == [5, 5, 5]
    (tmp_path / "generation-00005.json").write_text("{}")
    found = load_array_checkpoint(tmp_path, lambda text: None)
    assert found is not None and found[0] == {"epoch": 4} and found[1]["w"].tolist() == [4, 4, 4]
    path = tmp_path / "arrays-00004.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(RunError, match="is damaged"):
        load_array_checkpoint(tmp_path, lambda text: None)
