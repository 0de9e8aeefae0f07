"""Whole workflows from a config: search, training, export to ONNX, and reading back, for three kinds of tasks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor, nn
from workflows import compute_precision, draw_scene, make_detector

import blendsearch as bs
from blendsearch.cli.main import main

timm = pytest.importorskip("timm")

QUICK: dict[str, Any] = {
    "budget": {"macs": 0.6},
    "criteria": {"pool": ["l1", "fpgm"], "images": 16},
    "fitness": {"fidelity": "recalibrated", "recalibration_images": 16, "batch_size": 16, "device": "cpu"},
    "search": {"evaluations": 4, "population": 4},
    "finals": {"picks": 1, "tuning": {"epochs": 1, "rate": 0.01, "batch_size": 8, "warmup": 0}},
    "engine": {"threads": 1},
}


def search(place: Path, config: dict[str, Any]) -> bs.SearchRun:
    path = place / "config.yaml"
    path.write_text(yaml.safe_dump(QUICK | config))
    main(["search", str(path), "--runs", str(place / "runs"), "--name", "one"])
    main(["export", "one", "--runs", str(place / "runs"), "--to", str(place / "out"), "--onnx"])
    return bs.open("one", runs=place / "runs")


def check_onnx(place: Path, module: nn.Module, images: Tensor, select: Callable[[Any], Tensor]) -> None:
    session = onnxruntime.InferenceSession((place / "out" / "network.onnx").read_bytes())
    (name,) = [item.name for item in session.get_inputs()]
    with torch.no_grad():
        expected = select(module(images))
    np.testing.assert_allclose(session.run(None, {name: images.numpy()})[0], expected.numpy(), atol=1e-3)


def assert_names_metric(shown: str, metric: str) -> None:
    """Check the printed answer and its table."""
    assert f"val {metric}" in shown and f"test {metric}" in shown
    assert f" {metric} " in shown.splitlines()[0] and "acc" not in shown


@pytest.mark.slow
def test_a_timm_classifier_with_its_own_weights_on_an_image_folder(tmp_path: Path, capsys: Any) -> None:
    rng = np.random.default_rng(0)
    for number in range(60):
        pixels = rng.integers(0, 80, (40, 36, 3), dtype=np.uint8)
        pixels[..., number % 3] += 120
        place = tmp_path / "data" / ("train" if number < 40 else "test") / "abc"[number % 3] / "more"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number}.png")
    torch.manual_seed(0)
    source = timm.create_model("resnet10t", num_classes=3)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    config = {
        "model": {
            "factory": "timm:resnet10t",
            "arguments": {"num_classes": 3, "checkpoint_path": str(tmp_path / "w.pth")},
            "weights": "factory",
        },
        "data": {"dataset": "image-folder", "root": str(tmp_path / "data"), "image_size": 32, "val_size": 12},
    }
    run = search(tmp_path, config)
    (tmp_path / "w.pth").unlink()  # the run has the weights
    stored = run.run.read_arrays("dense")
    assert np.array_equal(stored["conv1.0.weight"], source.state_dict()["conv1.0.weight"].numpy())
    loaded = bs.load(tmp_path / "out")
    best = run.best()
    assert best.macs_ratio <= 0.6 and best.val_accuracy is not None
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(loaded(images), best.module()(images))
    check_onnx(tmp_path, loaded, images, lambda output: output)


@pytest.mark.slow
def test_a_segmentation_network_of_torchvision_with_its_mean_iou(tmp_path: Path, capsys: Any) -> None:
    config = {
        "model": {
            "factory": "torchvision:lraspp_mobilenet_v3_large",
            "arguments": {"num_classes": 2},
            "train": {"epochs": 2, "rate": 0.05, "batch_size": 8},
        },
        "data": {"dataset": "workflows:make_masks", "val_size": 6},
        "task": {"kind": "segmentation"},
    }
    run = search(tmp_path, config)
    capsys.readouterr()
    main(["front", "one", "--runs", str(tmp_path / "runs")])
    shown = capsys.readouterr().out
    assert_names_metric(shown, "mIoU")
    assert "val mIoU" in repr(run.front())
    best = run.best()
    assert best.val_accuracy is not None and 0 < best.val_accuracy < 1
    page = run.report(tmp_path / "report.html").read_text("utf-8")
    assert "mIoU on validation data" in page and "val. mIoU" in page
    loaded = bs.load(tmp_path / "out")
    images = torch.stack([draw_scene(index)[0] for index in range(2)])
    check_onnx(tmp_path, loaded, images, lambda output: output["out"])
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "validation mIoU" in card


@pytest.mark.parametrize("body", ["plain", pytest.param("c2f", marks=pytest.mark.slow)])
def test_a_detector_with_its_mean_average_precision(body: str, tmp_path: Path, capsys: Any) -> None:
    config = {
        "model": {"factory": "workflows:make_detector", "arguments": {"width": 8, "body": body}, "weights": "factory"},
        "data": {"dataset": "workflows:Scenes"},
        "task": {
            "evaluate": "workflows:evaluate_detector",
            "evaluate_test": "workflows:evaluate_detector_again",
            "metric": "higher",
            "name": "mAP",
        },
        "training": {"train_fn": "workflows:train_detector"},
    }
    run = search(tmp_path, config)
    unpruned = {item["name"] for item in run.run.structure["frozen"]}
    assert unpruned == {"objectness", "box"}  # the outputs
    capsys.readouterr()
    main(["front", "one", "--runs", str(tmp_path / "runs")])
    assert_names_metric(capsys.readouterr().out, "mAP")
    main(["front", "one", "--json", "--runs", str(tmp_path / "runs")])
    found = json.loads(capsys.readouterr().out)
    best = run.best()
    assert best.val_accuracy == pytest.approx(best.further["mAP"]) and "val mAP" in repr(run.front())
    assert run.dense().further["mAP"] > 0.3
    (final,) = [item for item in found["finals"] if item["id"] == best.id]
    loaded = bs.load(tmp_path / "out", make_detector)
    assert compute_precision(loaded, range(100, 124)) == pytest.approx(final["val_accuracy"])
    assert compute_precision(loaded, range(200, 224)) == pytest.approx(final["test_accuracy"])
    images = torch.stack([draw_scene(index)[0] for index in range(2)])
    check_onnx(tmp_path, loaded, images, lambda output: output)
