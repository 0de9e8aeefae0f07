"""Code for a CUDA device, on the fake card of tests/helpers: no tensor stays on the CPU, and results are the CPU's."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from criteria_nets import NETS, SHAPE, draw_images, make_net
from fake_device import CARD, DeviceMismatch, use_fake_card
from structures import draw_random_cut
from torch import nn

import blendsearch
from blendsearch.criteria.registry import select_criteria
from blendsearch.criteria.score import compute_score_table
from blendsearch.data.splits import DataSpec, Splits, load_splits
from blendsearch.engine.ray_worker import Worker
from blendsearch.events import ignore_event
from blendsearch.fitness.evaluator import Evaluator, Outcome, make_request
from blendsearch.fitness.latency_benchmark import BenchmarkSettings, measure_latencies
from blendsearch.pipeline.launch import run_search, set_up_run
from blendsearch.pipeline.problem.persistence import restore
from blendsearch.runs.config.loading import parse_config
from blendsearch.runs.config.method_registry import list_method_names
from blendsearch.runs.run import open_run
from blendsearch.structure.depthwise_layers import add_decomposable_layers
from blendsearch.structure.surgery import narrow
from blendsearch.structure.trace import trace_structure
from blendsearch.training.device import resolve_device
from blendsearch.training.hooks import TrainingHooks
from blendsearch.training.recovery import Recipe
from blendsearch.training.refit import RefitOptions, make_refitter
from blendsearch.training.schedule import Schedule
from blendsearch.training.stored_teacher import StoredTeacher, compute_logits
from blendsearch.training.teacher import LiveTeacher
from blendsearch.training.trainer import train
from blendsearch.training.training_options import CheckpointOptions, TrainingOptions
from blendsearch.training.training_store import FolderStore
from blendsearch.zoo.digits_net import digits_net

CPU = torch.device("cpu")
SHORT = Schedule(1, 0.05, 50, images=150)
EVERYTHING = replace(SHORT, ema=0.9, clip_norm=0.5, label_smoothing=0.1, warmup=0.1)
TRAININGS: dict[str, tuple[Schedule, TrainingOptions]] = {
    "sgd": (SHORT, TrainingOptions()),
    "adamw": (replace(SHORT, optimizer="adamw", rate=0.003), TrainingOptions()),
    "everything": (EVERYTHING, TrainingOptions()),
    "bfloat16": (SHORT, TrainingOptions("bfloat16")),
    "float16": (replace(EVERYTHING, optimizer="adamw", rate=0.003), TrainingOptions("float16")),
}


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load_splits(DataSpec("digits", augment=("flip", "crop", "shift")), 0)


def make_digits_net(device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    return digits_net(width=8).to(device)


def run_on_both(run: Callable[[torch.device], Any]) -> tuple[Any, Any]:
    """Return the results of `run` on the CPU and on the fake card, which must have been used."""
    plain = run(CPU)
    with use_fake_card() as card:
        found = run(CARD)
    assert card.checked > 0
    return plain, found


def read_weights(module: nn.Module, device: torch.device) -> dict[str, np.ndarray]:
    """Return the state of `module`, all of which must be on `device`."""
    assert {tensor.device.type for tensor in module.state_dict().values()} == {device.type}
    return {name: tensor.detach().cpu().numpy() for name, tensor in module.state_dict().items()}


def assert_close(plain: dict[str, np.ndarray], found: dict[str, np.ndarray], tolerance: float = 1e-3) -> None:
    assert plain.keys() == found.keys()
    for name, value in plain.items():
        np.testing.assert_allclose(found[name], value, rtol=tolerance, atol=tolerance, err_msg=name)


def test_the_fake_card_refuses_what_a_card_refuses() -> None:
    with use_fake_card():
        there, here = torch.ones(4).to("cuda"), torch.ones(4)
        assert (there.device, here.device, there.is_cuda, here.is_cuda) == (CARD, CPU, True, False)
        for mix in (
            lambda: there + here,
            lambda: torch.cat([there, here]),
            lambda: here[there.long()],
            lambda: there.numpy(),
            lambda: np.asarray(there),
            lambda: nn.Linear(4, 4)(there),
            lambda: there.add_(here),
            lambda: torch.cuda.set_rng_state(there.byte()),
        ):
            with pytest.raises(DeviceMismatch):
                mix()


def test_the_fake_card_allows_what_a_card_allows() -> None:
    with use_fake_card():
        there, here = torch.ones(4, device="cuda"), torch.ones(4)
        for tensor in (there * torch.tensor(2.0), there[torch.tensor([0, 1])], there.new_zeros(3), there.double()):
            assert tensor.device == CARD
        assert torch.zeros_like(there, device="cpu").device == there.cpu().device == here.device == CPU
        assert here.copy_(there).device == CPU
        assert float(there.sum()) == 4 and there.tolist() == [1] * 4
        assert resolve_device("auto") == CARD
    assert there.device == CPU  # outside, these are the CPU's tensors


def test_gradients_and_hooks_are_on_the_card() -> None:
    seen: list[torch.device] = []
    with use_fake_card():
        module = nn.Linear(3, 2).to(CARD)
        outputs = module(torch.ones(5, 3, device=CARD))
        outputs.register_hook(lambda gradient: seen.append(gradient.device))
        outputs.square().sum().backward()
        assert module.weight.grad is not None and module.weight.grad.device == CARD
    assert seen == [CARD]


@pytest.mark.parametrize("name", TRAININGS)
def test_training(name: str, splits: Splits) -> None:
    schedule, options = TRAININGS[name]

    def run(device: torch.device) -> dict[str, np.ndarray]:
        module = make_digits_net(device)
        train(module, splits, schedule, device, np.random.default_rng(0), options)
        return read_weights(module, device)

    assert_close(*run_on_both(run), tolerance=1e-3 if options.precision == "float32" else 5e-2)


@pytest.mark.parametrize("precision", [pytest.param("float32", marks=pytest.mark.slow), "float16"])
def test_a_training_continues_from_its_checkpoint(precision: Any, splits: Splits, tmp_path: Path) -> None:
    def run(device: torch.device, name: str, stops: tuple[float, ...]) -> dict[str, np.ndarray]:
        module, rng = make_digits_net(device), np.random.default_rng(0)
        for stop in stops:
            checkpoints = CheckpointOptions(FolderStore(tmp_path / name), "key", 0.0, keep=True)
            options = TrainingOptions(precision, checkpoints=checkpoints, stop=stop)
            train(module, splits, EVERYTHING, device, rng, options)
            if stop < 1:
                module = make_digits_net(device)
        return read_weights(module, device)

    with use_fake_card():
        once = run(CARD, "once", (1.0,))
        twice = run(CARD, "twice", (0.5, 1.0))
    for key, value in once.items():
        np.testing.assert_array_equal(value, twice[key], err_msg=key)


@pytest.mark.parametrize("stored", [False, True], ids=["live", "stored"])
def test_distillation(stored: bool, splits: Splits) -> None:
    def run(device: torch.device) -> dict[str, np.ndarray]:
        module, dense = make_digits_net(device), make_digits_net(device).eval()
        teacher: Any = LiveTeacher(dense, 0.5)
        if stored:
            teacher = StoredTeacher(compute_logits(dense, splits, 2, 0, device), 0.5)
        train(module, splits, SHORT, device, np.random.default_rng(0), TrainingOptions(teacher=teacher))
        return read_weights(module, device)

    assert_close(*run_on_both(run))


def test_user_optimizers_and_schedulers(splits: Splits) -> None:
    hooks = TrainingHooks(
        optimizer=lambda module, schedule: torch.optim.Adam(module.parameters(), lr=1e-3),
        scheduler=lambda optimizer, steps: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        on_step=lambda step: None,
    )

    def run(device: torch.device) -> dict[str, np.ndarray]:
        module = make_digits_net(device)
        train(module, splits, SHORT, device, np.random.default_rng(0), TrainingOptions(hooks=hooks))
        return read_weights(module, device)

    assert_close(*run_on_both(run))


def make_evaluator(device: torch.device, splits: Splits, **changes: Any) -> Evaluator:
    """Make an evaluator as `assemble_problem` does; `decomposable` and `repair` are for tests."""
    decomposable, repair = changes.pop("decomposable", False), changes.pop("repair", True)
    torch.manual_seed(0)
    model = digits_net(width=8).eval()
    structure = trace_structure(model, (1, 8, 8))
    if decomposable:
        structure = add_decomposable_layers(model, structure, (1, 8, 8))
    maps, model = structure.maps, model.to(device)
    recipe = Recipe(100, 50, SHORT, EVERYTHING, **changes.pop("recipe", {}))
    refitter = None
    if repair:
        options = RefitOptions(recalibration=True, precision=recipe.precision)
        refitter = make_refitter(model, maps, splits, images=100, device=device, options=options)
    return Evaluator(model, maps, splits, recipe, device, refitter, **changes)


EVALUATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "raw": ("raw", {}),
    "no refit": ("recalibrated", {"repair": False}),
    "recalibrated": ("recalibrated", {}),
    "against the dense network": ("recalibrated", {"loss_target": "dense"}),
    "fitted temperature": ("recalibrated", {"fits_temperature": True}),
    "fitted temperature, against the dense network": (
        "recalibrated",
        {"fits_temperature": True, "loss_target": "dense"},
    ),
    "bfloat16": ("recalibrated", {"recipe": {"precision": "bfloat16"}}),
    "tuned": ("tuned", {"recipe": {"tuning_distillation": 0.5}}),
    "final": ("final", {"recipe": {"distillation": 0.5, "views": 2}}),
}


@pytest.mark.parametrize("name", EVALUATIONS)
def test_evaluation(name: str, splits: Splits) -> None:
    fidelity, changes = EVALUATIONS[name]

    def run(device: torch.device) -> Outcome:
        held = make_evaluator(device, splits, **copy.deepcopy(changes))
        held.warm_up_evaluation()
        cut = draw_random_cut(held.maps, 0.7, 0)
        request = make_request(cut, fidelity, 0, "both")._replace(return_weights=True)
        return held.evaluate(request)

    plain, found = run_on_both(run)
    assert not plain.failure and not found.failure
    rough = "bfloat16" in name or fidelity == "final"
    assert found.loss == pytest.approx(plain.loss, rel=0.05 if rough else 1e-3)
    assert found.test == pytest.approx(plain.test, rel=0.1 if rough else 1e-2)
    if not rough:
        assert_close(plain.weights, found.weights)


def test_a_worker_moves_the_evaluator_to_its_device(splits: Splits) -> None:
    held = make_evaluator(CPU, splits)
    held.warm_up_evaluation()
    with use_fake_card() as card:
        worker = Worker(held, 1, "cuda", 0.5)
        request = make_request(draw_random_cut(held.maps, 0.7, 0), "recalibrated", 0)
        outcome, _ = worker.evaluate(request)
    assert card.checked and not outcome.failure


@pytest.mark.parametrize("name", NETS)
def test_surgery_and_criteria(name: str) -> None:
    """All criteria give the same scores on the card, and leave out the same groups."""

    def run(device: torch.device) -> Any:
        model = make_net(name)
        structure = trace_structure(model, SHAPE)
        model = model.to(device)
        images, labels = (tensor.to(device) for tensor in draw_images(12))
        pool = select_criteria()
        narrowed = narrow(model, structure.maps, draw_random_cut(structure.maps, 0.6, 0))
        read_weights(narrowed, device)
        narrowed.eval()(images)
        return compute_score_table(model, structure, pool, lambda: [(images, labels)], np.random.default_rng(0))

    plain, found = run_on_both(run)
    assert len(plain.criteria) > 20
    assert [(item.criterion, item.group) for item in plain.left_out] == [
        (item.criterion, item.group) for item in found.left_out
    ], [item for item in found.left_out if item not in plain.left_out]
    for expected, scores in zip(plain.scores, found.scores, strict=True):
        np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-5)


def test_the_refit_of_decomposed_layers(splits: Splits) -> None:
    def run(device: torch.device) -> Outcome:
        held = make_evaluator(device, splits, decomposable=True)
        cut = held.maps.make_unpruned_cut()
        cut[held.maps.offsets[-1] :] = False
        assert held.maps.layers
        return held.evaluate(make_request(cut, "recalibrated", 0))

    plain, found = run_on_both(run)
    assert not plain.failure and found.loss == pytest.approx(plain.loss, rel=1e-2)


def test_the_latency_benchmark() -> None:
    with use_fake_card() as card:
        model = make_net("residual").to(CARD)
        structure = trace_structure(make_net("residual"), SHAPE)
        cuts = [draw_random_cut(structure.maps, 0.6, seed) for seed in range(2)]
        seconds = measure_latencies(model, structure.maps, cuts, BenchmarkSettings(SHAPE, 2, "float32", 3))
    assert card.checked and seconds.shape == (2, 2) and (seconds > 0).all()


TUNING: dict[str, Any] = {"epochs": 1, "rate": 0.05, "batch_size": 64, "images": 320}
SEARCH: dict[str, Any] = {
    "model": {"factory": "digits_net", "arguments": {"width": 8}, "train": {"epochs": 1, "rate": 0.1}},
    "data": {"dataset": "digits", "val_size": 0.3, "augment": ["flip"]},
    "criteria": {"pool": ["l1", "l2", "taylor_gate"], "images": 32, "augment": ["flip"]},
    "budget": {"macs": 0.5},
    "fitness": {"recalibration_images": 64, "device": "cuda"},
    "search": {"evaluations": 5, "population": 4},
    "finals": {"picks": 0},
    "derived": {"batches": 2, "steps": 2, "tuning": TUNING},
    "tailored": {"tuning": TUNING | {"epochs": 2}},
    "engine": {"threads": 1},
    "seed": 3,
}
SEARCHES: dict[str, dict[str, Any]] = {
    **{name: {"method": name} for name in list_method_names()},
    "rules": {"method": "rules", "budget": {"macs": [0.25, 0.5]}, "rules": {"factors": [2, 4]}},
    "finals": {"finals": {"picks": 1, "tuning": TUNING, "distillation": 0.5}, "training": {"views": 2}},
    "latency": {"budget": {"macs": 0.5, "latency": 1.0, "measured": {"cuts": 15, "repeats": 3, "max_margin": 1e9}}},
    "depthwise layers": {"transform": "depthwise", "budget": {"macs": 0.4}, "fitness": {"against": "dense"}},
}

QUICK = {"finals"}  # with the method blended; every step of the others is tested above


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SEARCHES]
)
def test_a_search_runs_on_the_card_and_is_restored_there(name: str, tmp_path: Path) -> None:
    tree = copy.deepcopy(SEARCH)
    for section, values in SEARCHES[name].items():
        tree[section] = tree.get(section, {}) | values if isinstance(values, dict) else values
    with use_fake_card() as card:
        run, problem, engine = set_up_run(parse_config(tree, name), tmp_path, "run", ["test"], ignore_event)
        run_search(run, problem, engine, ignore_event)
        assert {parameter.device for parameter in problem.model.parameters()} == {CARD}
        restored = restore(open_run(tmp_path, "run"))
        assert {parameter.device for parameter in restored.model.parameters()} == {CARD}
    assert card.checked
    with open_run(tmp_path, "run").open_store(read_only=True) as store:
        rows = store.read_evaluations()
    assert rows and all(np.isfinite(row.loss) for row in rows), [row for row in rows if not np.isfinite(row.loss)]


def test_a_search_in_python_on_the_card_gives_networks_on_the_cpu(tmp_path: Path) -> None:
    """With a user-defined model, loss, optimizer and training; its networks are exported and evaluated again."""
    images = torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    data = (images, torch.arange(200) % 2)
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)),
    )
    options: dict[str, Any] = {
        "criteria": {"pool": ["l1", "taylor_gate"], "images": 32},
        "fitness": {"recalibration_images": 64, "fidelity": "tuned", "tuning": {"epochs": 1, "batch_size": 32}},
        "evolution": {"population": 4},
        "engine": {"threads": 1},
        "device": "cuda",
        "loss": nn.functional.cross_entropy,
        "optimizer": lambda module, schedule: torch.optim.Adam(module.parameters(), lr=1e-3),
        "progress": False,
        "runs": tmp_path,
    }
    with use_fake_card() as card:
        run = blendsearch.search(model, data, budget=blendsearch.macs(0.5), evaluations=5, **options)
        module = run.best().module()
        assert {tensor.device for tensor in module.state_dict().values()} == {CPU}
        module(images[:2])
        run.best().export(tmp_path / "out")
        assert {parameter.device for parameter in model.parameters()} == {CPU}, "the user's model was moved"
    assert card.checked
