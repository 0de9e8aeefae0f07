"""The Python API: user-defined networks, data, losses and evaluate functions."""

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.data import DataLoader, Dataset, Subset, SubsetRandomSampler, TensorDataset

import blendsearch as bs
from blendsearch.cli.main import main
from blendsearch.engine.ray_connection import authenticate
from blendsearch.errors import BlendsearchError, ConfigError, DataError, EvaluateError, ModelError, RunError
from blendsearch.events import Evaluated, Event, GenerationAsked, GenerationDone, Warned
from blendsearch.fitness.temperature import compute_fitted_loss

FEW = ["l1", "bn_gamma", "apoz", "taylor_gate"]
QUICK: dict[str, Any] = {
    "criteria": {"pool": FEW, "images": 64},
    "fitness": {"recalibration_images": 64},
    "evolution": {"population": 8},
    "finals": {"picks": 0},
    "engine": {"threads": 1},
    "device": "cpu",
    "progress": False,
}


def network(classes: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(12, classes)),
    )


def holed() -> nn.Module:
    """Make a network with NaN in its weights."""
    found = network()
    nn.init.constant_(found[0].weight, float("nan"))
    return found


def digits() -> tuple[Tensor, Tensor]:
    found = load_digits()
    return torch.tensor(found.images, dtype=torch.float32)[:, None] / 16, torch.tensor(found.target)


def three(count: int = 120) -> dict[str, Dataset[Any]]:
    images, labels = digits()
    data = TensorDataset(images, labels)
    return {
        name: Subset(data, range(start, start + count)) for start, name in ((0, "train"), (300, "val"), (600, "test"))
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> bs.SearchRun:
    budget = bs.macs(0.5) & bs.params(0.6)
    runs = tmp_path_factory.mktemp("runs")
    return bs.search(network(), three(), budget=budget, evaluations=24, runs=runs, name="own", **QUICK)


def test_search_does_not_change_a_user_defined_network(tmp_path: Path) -> None:
    model = network()
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    bs.search(model, three(), budget=bs.macs(0.5), evaluations=10, runs=tmp_path, **QUICK)
    assert model.training and all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == state


@pytest.mark.parametrize("compiled", [False, True])
def test_compiled_and_channels_last_networks_get_the_same_results(
    compiled: bool, found: bs.SearchRun, tmp_path: Path
) -> None:
    fast: Any = network().to(memory_format=torch.channels_last)
    fast = torch.compile(fast, backend="eager") if compiled else fast
    run = bs.search(fast, three(), budget=bs.macs(0.5), evaluations=4, runs=tmp_path, **QUICK)
    assert run.name == "sequential-1"
    assert run.dense().val_loss == pytest.approx(found.dense().val_loss, rel=1e-4)
    assert run.best().module()(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_three_dimensional_convolutions_are_cut(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Unflatten(1, (1, 1)), nn.Conv3d(1, 8, (1, 3, 3)), nn.BatchNorm3d(8), nn.ReLU()),
        *(nn.Conv3d(8, 8, (1, 3, 3)), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 10)),
    )
    found = bs.search(model, three(60), budget=bs.macs(0.6), evaluations=10, runs=tmp_path, **QUICK)
    assert found.best().module()[1].out_channels < 8 or found.best().module()[4].out_channels < 8


def test_the_module_of_the_best_network_has_its_reported_loss_and_costs(found: bs.SearchRun) -> None:
    best, val = found.best(), three()["val"]
    module = best.module()
    images, labels = (torch.stack([torch.as_tensor(item) for item in part]) for part in zip(*val, strict=True))
    with torch.no_grad():
        logits = module(images)
    assert compute_fitted_loss(logits, labels) == pytest.approx(best.val_loss, rel=1e-4)
    assert F.cross_entropy(logits, labels).item() >= best.val_loss
    assert sum(tensor.numel() for tensor in module.parameters()) == best.details()["params"]
    assert best.macs_ratio <= 0.5 and best.params_ratio <= 0.6
    assert best.kept() == {"0": module[0].out_channels, "3": module[3].out_channels}
    assert best.test_accuracy is not None and found.finished and len(found.front()) >= 1
    with pytest.raises(AttributeError, match="val_loss"):
        _ = best.val_los


def test_the_command_line_reads_a_run_of_the_python_api(found: bs.SearchRun, tmp_path: Path, capsys: Any) -> None:
    place = ["--runs", str(found.path.parent)]
    main(["front", "own", *place, "--json"])
    assert json.loads(capsys.readouterr().out)["front"] == found.summary()["front"]
    main(["show", "own", "best", *place])
    assert f"network {found.best().id} of own" in capsys.readouterr().out
    main(["report", "own", *place, "--to", str(tmp_path / "own.html")])
    assert "Sequential" in (tmp_path / "own.html").read_text()
    capsys.readouterr()
    main(["report", "own", *place, "--to", str(tmp_path / "own.html"), "--json"])
    summary = json.loads(capsys.readouterr().out)
    assert summary["bytes"] == (tmp_path / "own.html").stat().st_size and summary["sentences"]
    main(["runs", *place])
    assert "python:Sequential" in capsys.readouterr().out


def test_a_stopped_search_resumes_in_python_to_the_same_front(found: bs.SearchRun, tmp_path: Path, capsys: Any) -> None:
    def stopping(event: Event) -> None:
        if isinstance(event, Evaluated) and event.id == 13:
            raise KeyboardInterrupt

    settings: dict[str, Any] = {"budget": bs.macs(0.5) & bs.params(0.6), "evaluations": 24, "runs": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        bs.search(network(), three(), name="own", **settings, **(QUICK | {"progress": stopping}))
    with pytest.raises(SystemExit):
        main(["resume", "own", "--runs", str(tmp_path)])
    message = capsys.readouterr().err
    assert "\n" not in message.strip() and "blendsearch.resume('own', model=, data=)" in message
    other = three()
    other["val"] = Subset(other["val"], range(100))
    with pytest.raises(RunError, match="other data"):
        bs.resume("own", model=network(), data=other, runs=tmp_path, progress=False)
    with pytest.raises(ModelError, match="not the network of the run"):
        bs.resume("own", model=network(7), data=three(), runs=tmp_path, progress=False)
    torch.manual_seed(5)
    other_weights = network()
    for parameter in other_weights.parameters():
        nn.init.normal_(parameter)  # the run has its weights
    resumed = bs.resume("own", model=other_weights, data=three(), runs=tmp_path, progress=False)
    assert resumed.summary() == found.summary()
    assert bs.open(str(tmp_path / "own")).front()[0].facts == found.front()[0].facts


def test_a_fork_searches_within_another_budget(found: bs.SearchRun) -> None:
    events: dict[str, Any] = {}
    changes = {"budget.macs": 0.3, "search.evaluations": 16}
    forked = bs.fork(found, changes, progress=lambda event: events.setdefault(event.kind, event))
    assert events["forked"].judgements > 0 and events["forked"].parent == "own"
    assert forked.name == "own-fork-1" and forked.best().macs_ratio <= 0.3
    assert sum(tensor.numel() for tensor in forked.best().module().parameters()) == forked.best().details()["params"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": None}, "no data: pass"),
        ({"data": {"train": 1, "validation": 2}}, "expected train, val and test"),
        ({"model": 3}, "model is a int: expected a torch.nn.Module"),
        ({"budget": bs.macs(1.5)}, "budget.macs"),
        ({"budget": {}}, "no budget"),
        ({"budget": 1.5}, "1.5"),
        ({"model": holed()}, "holds NaN or infinity in 0.weight"),
        ({"model": torch.jit.script(network())}, "is a scripted network"),
        ({"model": network().bfloat16()}, "give it in float32"),
        ({"model": network().to("meta")}, "has no values in 0.weight yet"),
        ({"model": nn.Sequential(nn.LazyConv2d(8, 3), nn.Flatten(), nn.LazyLinear(10))}, "a lazy layer gets them"),
        ({"model": weight_norm(network()[0])}, "remove_parametrizations"),
        ({"seed": 2**40}, "seed: Input should be less than 4294967296"),
        ({"evaluations": 0}, "search.evaluations"),
        ({"criteria": ["l1", "tailor_gate"]}, "did you mean"),
        ({"evolution": {"populaton": 8}}, "did you mean population"),
        ({"name": "Upper"}, "cannot be called"),
        ({"splits": {"mean": [0.1], "std": [0.2]}}, "float32, which reach the network unchanged"),
        ({"data": (torch.zeros(40, 8, 8), torch.zeros(40))}, "channels, height, width"),
        ({"data": (torch.zeros(40, 1, 8, 8), torch.zeros(39))}, "40 images but 39 targets"),
        ({"data": (torch.full((40, 1, 8, 8), torch.nan), torch.zeros(40).long())}, "NaN"),
        ({"data": (torch.zeros(40, 1, 8, 8).long(), torch.zeros(40).long())}, "int64: expected float32"),
        ({"data": (torch.zeros(40, 1, 8, 8), torch.zeros(40, 2))}, "pass loss="),
        ({"data": (torch.zeros(40, 3, 8, 8), torch.arange(40) % 2)}, "does not accept one image"),
        ({"data": (torch.zeros(240, 1, 8, 8), torch.arange(240) % 12)}, "the network's outputs"),
        ({"data": [(torch.zeros(1, 8, 8), "one")]}, "the full targets cannot be stacked"),
        ({"data": (torch.zeros(40, 1, 8, 8), np.array(["cat", "dog"] * 20))}, "the full targets are text or objects"),
        ({"data": (torch.zeros(40, 1, 8, 8), torch.arange(40) * 10**8)}, "numbered 0, 1, 2 and so on"),
        ({"data": [(torch.zeros(1, 8, 8), 0), (torch.zeros(1, 9, 8), 0)]}, "expected the same of all"),
        ({"data": []}, "hold no image"),
        ({"data": (torch.zeros(40, 1, 8, 8), torch.arange(40) % 10 - 1)}, "the targets hold -1: expected classes"),
        ({"evaluate": lambda module: {"loss": float("nan")}}, "a loss of nan for the dense network"),
        ({"loss": lambda output, target: 3.0}, "returned float: expected a tensor"),
        ({"evaluate": lambda module: 0.5}, "expected a dict of numbers"),
        ({"evaluate": lambda module: {"accuracy": 0.5}}, "expected a dict of numbers with 'loss'"),
        ({"evaluate": lambda module: {"loss": 1, "error": 1.5}}, "expected a share"),
        ({"evaluate": lambda module: {"loss": 1}, "finals": {"picks": 1}}, "evaluate_test="),
        ({"loss": F.mse_loss, "fitness": {"against": "dense"}}, "against dense"),
        ({"loss": F.mse_loss, "finals": {"picks": 1, "distillation": 0.5}}, "distillation"),
    ],
)
def test_wrong_arguments_are_refused_before_a_run_is_created(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    settings = {"model": network(), "data": three(), "budget": bs.macs(0.5), "runs": tmp_path / "runs", **QUICK}
    with pytest.raises(BlendsearchError) as caught:
        bs.search(**(settings | change))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_unknown_options_raise_type_errors(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"search\(\) got an unexpected keyword argument 'evalutions'; did you mean"):
        bs.search(network(), three(), budget=bs.macs(0.5), runs=tmp_path, evalutions=3)  # type: ignore[call-arg]
    for function in (bs.resume, bs.open):
        with pytest.raises(TypeError, match="unexpected keyword argument 'seed'"):
            function("own", seed=3)
    with pytest.raises(ConfigError, match="val is passed twice"):
        bs.search(network(), three(), val=three()["val"], budget=bs.macs(0.5), runs=tmp_path)


def test_budgets_are_joined() -> None:
    budget = bs.macs(0.2, 0.7) & bs.latency(0.8, batch_size=4)
    assert budget.with_options(round_to=8).fields == {
        "macs": [0.2, 0.7],
        "latency": 0.8,
        "measured": {"batch_size": 4},
        "round_to": 8,
    }
    with pytest.raises(ConfigError, match="set twice"):
        bs.macs(0.5) & bs.macs(0.4)


def test_results_have_text_html_and_pictures(found: bs.SearchRun) -> None:
    png = b"\x89PNG\r\n"
    best = found.best()
    assert f"{best.val_loss:.4f}" in repr(found.front()) and "own" in repr(found)
    assert f"network {best.id}" in repr(best)
    for shown in (found, found.front(), best):
        assert shown._repr_png_().startswith(png)
    page = found._repr_html_()
    assert "data:image/png;base64," in page and page.count("<table>") == page.count("</table>") == 1
    assert f"<td>{best.kept()['3']} of 12</td>" in best._repr_html_()
    from blendsearch.progress.notebook import render_html
    from blendsearch.progress.state import ProgressState

    state = ProgressState(10)
    state.update(GenerationAsked(generation=0, before=0, candidates=4, cached=1, workers=2))
    state.update(GenerationDone(generation=1, evaluations=4, seconds=1.0, front=1, hypervolume=0.5, best_loss=0.5))
    assert "1 done, 1 from the store, 0 failed" in render_html(state, ["<b>"]) and "&lt;b&gt;" in render_html(
        state, ["<b>"]
    )


class Squares(Dataset[tuple[Tensor, Tensor]]):
    """Noise with bright squares, which are segmented."""

    def __init__(self, count: int, seed: int) -> None:
        drawn = torch.Generator().manual_seed(seed)
        self.images = 0.3 * torch.randn(count, 1, 12, 12, generator=drawn)
        self.masks = torch.zeros(count, 12, 12, dtype=torch.int64)
        for number in range(count):
            top, left = torch.randint(0, 7, (2,), generator=drawn).tolist()
            self.masks[number, top : top + 5, left : left + 5] = 1
        self.images[:, 0] += self.masks

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        return self.images[place], self.masks[place]


class Segmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        )
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.head(self.body(x))}


def segmenter(data: Dataset[Any]) -> nn.Module:
    torch.manual_seed(0)
    model = Segmenter()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(3):
        for x, y in DataLoader(data, batch_size=16):
            optimizer.zero_grad()
            pixelwise(model(x), y).backward()
            optimizer.step()
    return model


def pixelwise(output: dict[str, Tensor], target: Tensor) -> Tensor:
    return F.cross_entropy(output["out"], target)


def overlap(module: nn.Module, data: Squares) -> dict[str, float]:
    output = module(data.images)
    found, wanted = output["out"].argmax(dim=1) == 1, data.masks == 1
    iou = float((found & wanted).sum() / (found | wanted).sum())
    return {"loss": pixelwise(output, data.masks).item(), "error": 1 - iou, "pixels": float((found != wanted).sum())}


def test_segmentation_with_a_user_defined_evaluate_function(tmp_path: Path, capsys: Any) -> None:
    train, val, test = Squares(64, 0), Squares(32, 1), Squares(32, 2)
    model = segmenter(train)
    seen: list[tuple[int, float]] = []

    def evaluate(module: nn.Module) -> dict[str, float]:
        seen.append((module.head.in_channels, random.random()))
        assert not module.training
        return overlap(module, val)

    events: dict[str, Any] = {}
    run = bs.search(
        model,
        train,
        budget=bs.macs(0.5),
        evaluate=evaluate,
        evaluate_test=lambda module: overlap(module, test),
        loss=pixelwise,
        evaluations=12,
        runs=tmp_path,
        name="squares",
        **(QUICK | {"progress": lambda event: events.setdefault(event.kind, event)}),
    )
    best, dense = run.best(), run.dense()
    assert events["scored"].left_out == []  # criteria that read gradients use the loss
    assert dense.facts["further"]["pixels"] == overlap(model.eval(), val)["pixels"]
    assert best.val_loss == pytest.approx(overlap(best.module(), val)["loss"], rel=1e-5)
    assert best.test_accuracy == pytest.approx(1 - overlap(best.module(), test)["error"])
    assert {width for width, _ in seen} > {8}  # narrow networks were evaluated too
    assert "pixels" in repr(run.front())
    main(["show", "squares", str(best.id), "--runs", str(tmp_path)])
    assert "pixels" in capsys.readouterr().out


def test_no_loss_excludes_gradient_criteria_and_no_error_means_no_accuracies(tmp_path: Path, capsys: Any) -> None:
    train = Squares(64, 0)
    model = segmenter(train)
    events: dict[str, Any] = {}
    run = bs.search(
        model,
        DataLoader(train, batch_size=16, shuffle=True),
        budget=bs.macs(0.3, 0.7),
        evaluate=lambda module: {"loss": overlap(module, train)["loss"]},
        evaluations=12,
        runs=tmp_path,
        name="plain",
        **(QUICK | {"progress": lambda event: events.setdefault(event.kind, event)}),
    )
    left_out = events["scored"].left_out
    assert {item["criterion"] for item in left_out} == {"taylor_gate"} and "pass one" in left_out[0]["reason"]
    assert run.best().val_accuracy is None and run.best().test_accuracy is None and run.best().val_loss > 0
    place = ["--runs", str(tmp_path)]
    for words in (["front", "plain"], ["show", "plain", "knee"], ["status", "plain"], ["runs"]):
        main([*words, *place])
    assert "%" in capsys.readouterr().out
    assert run.report(tmp_path / "plain.html").stat().st_size > 0
    with pytest.raises(ConfigError, match="give loss="):
        bs.search(
            model,
            train,
            budget=bs.macs(0.5),
            evaluate=lambda module: {"loss": 1.0},
            fidelity="tuned",
            runs=tmp_path,
            **QUICK,
        )


def test_exceptions_of_evaluate_end_the_search_on_the_dense_network_only(
    tmp_path: Path,
) -> None:
    def broken(module: nn.Module) -> dict[str, float]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        bs.search(network(), three(), budget=bs.macs(0.5), evaluate=broken, runs=tmp_path, **QUICK)
    assert not list(tmp_path.iterdir())

    def picky(module: nn.Module) -> dict[str, float]:
        if 4 < module[0].out_channels < 8:
            raise RuntimeError("too wide for me")
        return {"loss": float(module[0].out_channels)}

    budget = bs.macs(0.6).with_options(round_to=1)
    run = bs.search(network(), three(), budget=budget, evaluate=picky, evaluations=16, runs=tmp_path, **QUICK)
    with run.run.open_store(read_only=True) as store:
        failures = [row.failure for row in store.read_evaluations()]
    assert any("too wide for me" in failure for failure in failures)
    assert run.best().val_loss <= 4


def test_a_search_without_any_successful_evaluation_ends_with_one_line(tmp_path: Path) -> None:
    def only_the_dense(module: nn.Module) -> dict[str, float]:
        return {"loss": 1.0 if module[0].out_channels == 8 and module[3].out_channels == 12 else float("nan")}

    for schedule in ("generational", "steady"):
        settings = QUICK | {"evolution": {"population": 8, "schedule": schedule}, "name": schedule, "runs": tmp_path}
        with pytest.raises(EvaluateError, match="networks could be evaluated, the last because: the loss is nan"):
            bs.search(network(), three(), budget=bs.macs(0.5), evaluate=only_the_dense, **settings)
        again = {"model": network(), "data": three(), "evaluate": only_the_dense, "runs": tmp_path}
        with pytest.raises(EvaluateError, match="networks could be evaluated"):
            bs.resume(schedule, progress=False, **again)


def test_a_noisy_evaluate_function_is_reported(tmp_path: Path) -> None:
    warnings: list[str] = []

    def report(event: Event) -> None:
        warnings.extend([event.text] if isinstance(event, Warned) else [])

    for name, evaluate in (
        ("steady", lambda module: {"loss": 1.5}),
        ("noisy", lambda module: {"loss": random.random()}),
    ):
        warnings.clear()
        bs.search(
            network(),
            three(),
            budget=bs.macs(0.5),
            evaluate=evaluate,
            evaluations=9,
            runs=tmp_path,
            name=name,
            **(QUICK | {"progress": report}),
        )
        assert any("evaluate= is noisy" in text for text in warnings) == (name == "noisy")


def test_a_user_defined_loss_is_used_in_evaluation_and_fine_tuning(tmp_path: Path) -> None:
    images, labels = digits()
    targets = F.one_hot(labels, 10).float()
    run = bs.search(
        network(),
        TensorDataset(images[:300], targets[:300]),
        budget=bs.macs(0.5),
        loss=lambda output, target: ((output - target) ** 2).mean(dim=1),  # one per image
        evaluations=8,
        runs=tmp_path,
        **(QUICK | {"fitness": {"fidelity": "tuned", "tuning": {"epochs": 5, "rate": 0.2, "batch_size": 16}}}),
    )
    best = run.best()
    assert best.val_accuracy is None and 0 < best.val_loss < run.dense().val_loss  # fine-tuned; the dense is untrained
    assert "Test images are 30 of the 300 images of the data set." in run.run.structure["splits"]
    again = bs.open(str(run.path), model=network(), data=TensorDataset(images[:300], targets[:300]))
    with pytest.raises(RunError, match="loss="):
        again.best().module()


def test_evaluate_errors_are_blendsearch_errors() -> None:
    assert issubclass(EvaluateError, BlendsearchError)


def test_all_kinds_of_data_are_read_alike() -> None:
    from blendsearch.data.user_data import read_split

    images, labels = digits()
    images, labels = images[:20], labels[:20]
    data = TensorDataset(images, labels)

    def content(source: Any) -> tuple[Any, Any]:
        split = read_split(source, "train", 0)
        return split.load_images(np.arange(len(split))).transpose(0, 3, 1, 2), split.labels

    for source in (
        data,
        (images, labels),
        (images.numpy(), labels.numpy().astype(np.int32)),
        [(image, int(label)) for image, label in data],
        ((image, label) for image, label in data),
        Subset(data, range(20)),
        DataLoader(data, batch_size=7, shuffle=True, drop_last=True),
    ):
        x, y = content(source)
        assert np.array_equal(x, images.numpy()) and np.array_equal(y, labels.numpy())
        assert x.dtype == np.float32 and y.dtype == np.int64
    sampled = DataLoader(data, batch_size=4, sampler=SubsetRandomSampler([9, 3, 5]))
    assert np.array_equal(content(sampled)[1], labels[[3, 5, 9]])
    noisy = [lambda: torch.rand(1, 8, 8)] * 3

    class Augmented(Dataset[Any]):
        def __len__(self) -> int:
            return len(noisy)

        def __getitem__(self, place: int) -> Any:
            return noisy[place](), 0

    assert np.array_equal(content(Augmented())[0], content(Augmented())[0])  # what a resumed search needs


def test_pixels_are_normalised_and_floats_are_not() -> None:
    from PIL import Image

    from blendsearch.data.sources import UserData
    from blendsearch.data.splits import DataSpec
    from blendsearch.data.user_data import load_user_splits
    from blendsearch.task import Task

    pixels = np.random.default_rng(0).integers(0, 256, (40, 6, 8, 3), dtype=np.uint8)
    labels = np.arange(40) % 4
    held = []
    for source in (
        (pixels, labels),
        (torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(labels)),
        [(Image.fromarray(image), label) for image, label in zip(pixels, labels, strict=True)],
    ):
        splits = load_user_splits(UserData(source), Task(), DataSpec("python:it", val_size=8), 3)
        assert splits.train.shape == (6, 8, 3) and [len(splits.train), len(splits.val), len(splits.test)] == [24, 8, 8]
        held.append(splits.compute_digest())
    assert len(set(held)) == 1
    x, _ = next(splits.iter_batches(splits.train, batch_size=24, device=torch.device("cpu")))
    assert x.mean().abs() < 0.01 and abs(x.std() - 1) < 0.01
    ready = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() + 500, torch.from_numpy(labels))
    splits = load_user_splits(UserData(ready), Task(), DataSpec("python:it"), 3)
    x, _ = next(splits.iter_batches(splits.train, batch_size=4, device=torch.device("cpu")))
    assert x.shape == (4, 3, 6, 8) and x.min() >= 500


@pytest.mark.parametrize("given", ["whole", "train test", "train val", "train val test"])
def test_the_three_splits_share_no_image(given: str) -> None:
    from blendsearch.data.sources import UserData
    from blendsearch.data.splits import DataSpec
    from blendsearch.data.user_data import load_user_splits
    from blendsearch.task import Task

    images = torch.arange(90, dtype=torch.float32).reshape(90, 1, 1, 1)
    parts = {
        name: (images[start::4], torch.arange(90)[start::4] % 2)
        for start, name in enumerate(("train", "val", "test", "whole"))
    }
    splits = load_user_splits(
        UserData(**{name: parts[name] for name in given.split()}), Task(), DataSpec("python:it"), 0
    )
    ids = [
        set(part.load_images(np.arange(len(part))).ravel().tolist()) for part in (splits.train, splits.val, splits.test)
    ]
    assert all(ids) and sum(map(len, ids)) == len(set().union(*ids))
    used = set().union(*(set(parts[name][0].ravel().tolist()) for name in given.split()))
    assert set().union(*ids) == used


class Stated(Dataset[tuple[Tensor, int]]):
    """Digits with random brightness; if `states`, with a `targets` attribute, like the data sets of torchvision."""

    def __init__(self, states: bool) -> None:
        images, labels = digits()
        self.images, self.labels, self.read = images[:40], labels[:40].tolist(), 0
        if states:
            self.targets = self.labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        self.read += 1
        return self.images[place] + 0.1 * torch.rand(1), self.labels[place]


@pytest.mark.parametrize("states", [True, False])
def test_large_data_are_streamed_or_refused(states: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from blendsearch.data import user_data
    from blendsearch.data.splits import DataSpec
    from blendsearch.data.streaming import StreamedSplit
    from blendsearch.task import Task

    monkeypatch.setattr(user_data, "MAX_BYTES", 5000)
    data = Stated(states)
    split = user_data.read_split(data, "train", 0)
    assert isinstance(split, StreamedSplit) and split.labels.tolist() == data.labels
    assert data.read == (2 if states else 41)  # the labels were stated, or all was read once to learn them
    places = np.array([3, 9])
    seen = split.load_images(places)
    assert seen.shape == (2, 8, 8, 1) and np.array_equal(seen, split.load_images(places))
    assert 0 < np.abs(seen[..., 0] - data.images[[3, 9], 0].numpy()).max() <= 0.1
    subset = user_data.read_split(DataLoader(Subset(data, range(5, 40)), batch_size=4, shuffle=True), "train", 0)
    assert isinstance(subset, StreamedSplit) and subset.labels.tolist() == data.labels[5:]
    splits = user_data.load_user_splits(user_data.UserData(data), Task(), DataSpec("python:it", val_size=10), 0)
    again = user_data.load_user_splits(
        user_data.UserData(Stated(states)), Task(), DataSpec("python:it", val_size=10), 0
    )
    assert splits.compute_digest() == again.compute_digest()
    with pytest.raises(DataError, match="image-folder"):
        user_data.read_split(((torch.zeros(1, 8, 8), 0) for _ in range(40)), "train", 0)


@pytest.mark.slow
def test_user_defined_networks_and_evaluate_functions_run_on_ray(tmp_path: Path) -> None:
    authenticate("local")
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not see the folder of tests
    train = Squares(32, 0)
    model = segmenter(train)
    runs = [
        bs.search(
            model,
            train,
            budget=bs.macs(0.5),
            evaluate=lambda module: overlap(module, train),
            evaluations=8,
            runs=tmp_path,
            name=where,
            ray=where,
            **(QUICK | {"engine": {"threads": 1, **({"workers": 2} if where == "local" else {})}}),
        )
        for where in ("off", "local")
    ]
    assert runs[0].summary() == runs[1].summary()
