"""A found network on its way out: the formats, their checks, the card; whole or not at all."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import blendsearch as bs
from blendsearch.cli.main import main
from blendsearch.errors import ModelError, RunError
from blendsearch.results.export import export as exporting
from blendsearch.results.export.formats import write_format


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs: one by names whose best was fine-tuned, and one that lives in Python."""
    folder = tmp_path_factory.mktemp("runs")
    quick: dict[str, Any] = {
        "criteria": {"pool": ["l1", "bn_gamma"], "images": 64},
        "fitness": {"recalibration_images": 64},
        "evolution": {"population": 8},
        "engine": {"threads": 1},
        "device": "cpu",
        "progress": False,
        "runs": folder,
    }
    model = {"factory": "digits_net", "arguments": {"width": 8}, "train": {"epochs": 2, "rate": 0.1}}
    finals = {"picks": 1, "tuning": {"epochs": 1, "rate": 0.05}}
    bs.search(model, "digits", budget=bs.macs(0.5), evaluations=10, finals=finals, name="tuned", **quick)
    bs.search(net(), data(), budget=bs.macs(0.3, 0.7), evaluations=12, finals={"picks": 0}, name="own", **quick)
    return folder


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)),
    )


def data() -> tuple[Tensor, Tensor]:
    return torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(200) % 2


def test_a_folder_that_cannot_become_the_export_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, reason in ((".", "the current folder cannot be replaced"), ("bad\udcff", "is not UTF-8")):
        with pytest.raises(RunError, match=reason):
            exporting.check_folder(Path(folder))


def test_every_format_is_written_checked_and_measured(runs: Path, tmp_path: Path, capsys: Any) -> None:
    words = ["export", "tuned", "--runs", str(runs), "--pt2", "--onnx"]
    main([*words, "--to", str(tmp_path / "out"), "--json"])
    facts = json.loads(capsys.readouterr().out)
    files = {item["name"]: item for item in facts["files"]}
    assert set(files) == {path.name for path in (tmp_path / "out").iterdir()}
    assert set(files) == {"weights.safetensors", "network.json", "network.pt2", "network.onnx", "README.md"}
    for name, item in files.items():
        assert item["bytes"] == (tmp_path / "out" / name).stat().st_size
    for name in ("network.pt2", "network.onnx"):
        assert files[name]["difference"] <= files[name]["tolerance"] == 1e-3
    assert facts["latency"]["dense_ms"] > 0 and facts["latency"]["pruned_ms"] > 0
    assert facts["latency"]["onnxruntime"]["dense_ms"] > 0 and facts["latency"]["onnxruntime"]["pruned_ms"] > 0
    assert facts["fidelity"] == "final" and facts["checked"] and facts["macs_ratio"] <= 0.5
    final = bs.open("tuned", runs=runs).summary()["finals"][0]
    assert facts["val_loss"] == pytest.approx(final["val_loss"], rel=1e-5)  # it left fine-tuned
    module = bs.load(tmp_path / "out")
    kept = bs.open("tuned", runs=runs).best().module()
    images = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        wanted = module(images)
        assert torch.allclose(wanted, kept(images), atol=1e-6)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "network.onnx"), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": images.numpy()})  # any number of images
    assert np.abs(logits - wanted.numpy()).max() < 1e-3
    main([*words[:4], "--to", str(tmp_path / "text")])
    said = capsys.readouterr().out
    assert "final" in said and "dense" in said and "weights.safetensors" in said
    assert "one pass in ONNX Runtime: dense " in said


def test_the_card_says_what_it_is(runs: Path, tmp_path: Path) -> None:
    run = bs.open("tuned", runs=runs)
    best = run.best()
    done = best.export(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    final = run.summary()["finals"][0]
    assert f"{final['val_accuracy']:.2%}" in card and f"{final['test_accuracy']:.2%}" in card
    assert f"{done.macs:,}" in card and run.run.structure["splits"] in card
    assert "blendsearch.load(folder)" in card and run.run.provenance["data_sha256"] in card
    assert f"{done.latency['pruned_ms']:.3f}" in card
    assert f"| in ONNX Runtime | {done.latency['onnxruntime']['pruned_ms']:.3f} | " in card
    for group, kept in best.kept().items():
        assert f"| `{group}` | {kept} of " in card
    widths = {line.count("|") - line.count("\\|") for line in card.splitlines() if line.startswith("| group")}
    assert len(widths) == 1


def test_a_run_of_python_leaves_from_the_command_line_by_its_kept_weights(
    runs: Path, tmp_path: Path, capsys: Any
) -> None:
    main(["export", "own", "--runs", str(runs), "--to", str(tmp_path / "out"), "--pick", "knee", "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert not facts["checked"] and facts["latency"] is None
    run = bs.open("own", runs=runs, model=net(), data=data())
    images = data()[0][:4]
    with pytest.raises(ModelError, match="factory="):
        bs.load(tmp_path / "out")
    with torch.no_grad():
        wanted = run.knee().module()(images)
        assert torch.equal(bs.load(tmp_path / "out", model=net())(images), wanted)
        assert torch.equal(bs.load(tmp_path / "out", factory=net)(images), wanted)
    assert json.loads((tmp_path / "out" / "network.json").read_text())["input"]["mean"] is None
    done = run.knee().export(tmp_path / "again", pt2=True)
    assert done.checked and [item.name for item in done.files if item.difference is not None] == ["network.pt2"]
    with pytest.raises(SystemExit):
        main(["export", "own", "--runs", str(runs), "--to", str(tmp_path / "no"), "--onnx"])
    assert "lives in Python" in capsys.readouterr().err
    off_front = next(
        row.id
        for row in run.run.open_store(read_only=True).read_evaluations()
        if row.id not in [n.id for n in run.front()]
    )
    with pytest.raises(SystemExit):
        main(["export", "own", "--runs", str(runs), "--to", str(tmp_path / "no"), "--pick", str(off_front)])
    assert "keeps no weights" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_an_export_is_whole_or_not_there(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    best = bs.open("tuned", runs=runs).best()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    with pytest.raises(RunError, match="not empty"):
        best.export(tmp_path / "full")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="not empty|could not be written"):
        best.export(tmp_path / "file")

    def full(*words: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(exporting, "write_atomically", full)
        with pytest.raises(RunError, match="No space left"):
            best.export(tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]
    (tmp_path / "empty").mkdir()
    best.export(tmp_path / "empty")
    assert bs.load(tmp_path / "empty")


class Sorting(nn.Module):
    """Gives outputs that its exported program does not: the order of a Python set of numbers it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x.mean(dim=(2, 3)) * self.calls


@pytest.mark.parametrize("suffix", ["pt2", "onnx"])
def test_a_file_with_other_outputs_is_refused(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="other outputs|cannot be written"):
        write_format(Sorting().eval(), (2, 4, 4), tmp_path / f"network.{suffix}")


def test_networks_that_no_exporter_follows_are_named(tmp_path: Path) -> None:
    class Deciding(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if float(x.sum()) > 0 else x

    with pytest.raises(RunError, match="cannot be written as pt2"):
        write_format(Deciding().eval(), (1, 4, 4), tmp_path / "network.pt2")
