"""The command line: wrong input prints one line, exits with code 2, and leaves no partial run."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

import blendsearch
from blendsearch.cli.main import main
from blendsearch.errors import ModelError
from blendsearch.zoo.digits_net import digits_net
from blendsearch.zoo.weights import load_weights


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    message = capsys.readouterr().err.strip()
    assert caught.value.code == 2
    assert "\n" not in message and message.startswith("blendsearch: ")
    return message


def arrays(folder: Path, **changes: Any) -> dict[str, Any]:
    """Write a npz data set with some arrays changed, and return the data section that reads it."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (80, 8, 8, 1), dtype=np.uint8)
    good = {"x": x, "y": np.arange(80) % 10}
    np.savez(folder / "train.npz", **(good | changes))
    np.savez(folder / "test.npz", **good)
    return {"dataset": "npz", "train": str(folder / "train.npz"), "test": str(folder / "test.npz"), "val_size": 0.25}


def weights(folder: Path, state: dict[str, torch.Tensor]) -> str:
    save_file(state, folder / "weights.safetensors")
    return str(folder / "weights.safetensors")


GOOD = digits_net(width=8).state_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("search.evalutions=3", "did you mean evaluations"),
        ("budget.macs=true", "macs is True: expected no true or false"),
        ("criteria.pool=[l1, tailor_gate]", "did you mean"),
        ("data.dataset=digit", "digits"),
        ("data.augment=[flop]", "flop"),
        ("model.factory=digit_net", "did you mean 'digits_net'"),
        ("model.factory=torchvision:resnet8", "did you mean"),
        ("model.factory=nowhere:make", "could not be imported"),
        ("model.factory=os:sep", "expected a function"),
        ("model.arguments.height=3", "could not be built"),
        ("model.weights=absent.safetensors", "do not exist"),
        ("model.arguments.classes=7", "label"),
        ("model.factory=cifar_resnet", "does not accept one image of shape"),
        ("budget.macs=0.001", "reachable is"),
        ("fitness.device=cuda:99", "device"),
        ("fitness.device=toaster", "no device is called"),
        ("engine.ray=ray://head:10001", "not supported"),
        ("criteria.modules=[no.such.module]", "no.such.module"),
    ],
)
def test_wrong_settings(change: str, message: str, config_file: Path, tmp_path: Path, capsys: Any) -> None:
    if change.startswith("model.arguments.height"):
        message = refused(capsys, "search", config_file, "--runs", tmp_path / "runs", "--set", change)
    else:
        extra = ["--set", "model.arguments={}"] if "factory" in change else []
        message = refused(capsys, "search", config_file, "--runs", tmp_path / "runs", *extra, "--set", change)
    assert message in message
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": np.zeros((80, 6, 6, 3), np.uint8)}, "shape"),
        ({"x": np.zeros((80, 8), np.uint8)}, "(80, 8)"),
        ({"x": np.full((80, 8, 8, 1), np.nan, np.float32)}, "NaN"),
        ({"x": np.zeros((80, 8, 8, 1), np.float32)}, "uint8"),
        ({"y": np.arange(80) % 10 - 1}, "-1"),
        ({"y": np.arange(40) % 10}, "80 images but y has 40 labels"),
        ({"y": np.arange(80) % 12}, "label"),
        ({"y": np.zeros((80, 10), np.int64)}, "y"),
    ],
)
def test_wrong_images_and_labels(
    changes: dict[str, Any], message: str, quick: dict[str, Any], tmp_path: Path, capsys: Any
) -> None:
    quick["data"] = arrays(tmp_path, **changes)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(quick))
    assert message.lower() in refused(capsys, "search", path, "--runs", tmp_path / "runs").lower()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (digits_net(width=9).state_dict(), "another architecture"),
        ({name: tensor for name, tensor in GOOD.items() if "stem" not in name}, "lacks stem"),
        (GOOD | {"extra": torch.zeros(1)}, "has in addition extra"),
        (GOOD | {"stem.0.weight": torch.full_like(GOOD["stem.0.weight"], torch.nan)}, "NaN"),
    ],
    ids=["width", "missing", "surplus", "nan"],
)
def test_wrong_weights(
    state: dict[str, torch.Tensor], message: str, config_file: Path, tmp_path: Path, capsys: Any
) -> None:
    change = f"model.weights={weights(tmp_path, {name: tensor.clone() for name, tensor in state.items()})}"
    message = refused(capsys, "search", config_file, "--runs", tmp_path / "runs", "--set", change)
    assert message in message
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_damaged_weights_and_pickles_are_refused(name: str, config_file: Path, tmp_path: Path, capsys: Any) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / name
    if name.endswith(".pt"):
        torch.save({"x": Evil()}, path)
    else:
        path.write_bytes(b"\x00" * 64)
    refused(capsys, "search", config_file, "--runs", tmp_path / "runs", "--set", f"model.weights={path}")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "runs").exists()


def test_weights_with_a_module_prefix_are_loaded(config_file: Path, tmp_path: Path, capsys: Any) -> None:
    path = weights(tmp_path, {f"module.{name}": tensor.clone() for name, tensor in GOOD.items()})
    changes = ["--set", f"model.weights={path}", "--set", "search.evaluations=4"]
    main(["search", str(config_file), "--runs", str(tmp_path / "runs"), "--name", "mine", *changes])
    assert "mine" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("front", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_weights_are_loaded_from_checkpoints_of_training_scripts(key: str, front: str, tmp_path: Path) -> None:
    model = digits_net(width=8)
    state = {f"{front}{name}": tensor for name, tensor in GOOD.items()}
    torch.save({key: state, "epoch": 3, "optimizer": {"state": {}}}, tmp_path / "checkpoint.pth")
    load_weights(model, tmp_path / "checkpoint.pth")
    assert all(torch.equal(tensor, GOOD[name]) for name, tensor in model.state_dict().items())


def test_a_checkpoint_without_a_state_dict_is_refused_with_its_keys(tmp_path: Path) -> None:
    torch.save({"weights": GOOD, "epoch": 3}, tmp_path / "checkpoint.pth")
    with pytest.raises(ModelError, match=r"hold a dict with weights, epoch, expected a state dict"):
        load_weights(digits_net(width=8), tmp_path / "checkpoint.pth")


def test_wrong_and_taken_names_of_runs_are_refused(config_file: Path, tmp_path: Path, capsys: Any) -> None:
    runs = tmp_path / "runs"
    for name in ("../up", "UPPER", "/etc"):
        assert "cannot be called" in refused(capsys, "search", config_file, "--runs", runs, "--name", name)
    for verb in ("front", "resume"):
        assert "no run" in refused(capsys, verb, "absent", "--runs", runs)
    assert "no run" in refused(capsys, "export", "absent", "--runs", runs, "--to", tmp_path / "out")
    main(["search", str(config_file), "--runs", str(runs), "--name", "taken", "--set", "search.evaluations=4"])
    assert "already" in refused(capsys, "search", config_file, "--runs", runs, "--name", "taken")
    assert "no network '77'" in refused(
        capsys, "export", "taken", "--runs", runs, "--pick", 77, "--to", tmp_path / "out"
    )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "not empty" in refused(capsys, "export", "taken", "--runs", runs, "--to", tmp_path / "full")
    capsys.readouterr()
    main(["runs", "--runs", str(runs), "--json"])
    assert [(row["run"], row["state"]) for row in json.loads(capsys.readouterr().out)] == [("taken", "finished")]


def test_an_ascii_locale_does_not_end_a_search(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder = tmp_path / "Größe"
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii", write_through=True))
    finals = "finals={picks: 1, seeds: 2, tuning: {epochs: 0.5}}"
    changes = ["--set", "search.evaluations=4", "--set", finals]
    main(["search", str(config_file), "--runs", str(folder), "--name", "one", *changes])
    main(["export", "one", "--runs", str(folder), "--to", str(folder / "out")])
    assert b"% ? " in written.getvalue() and b"Gr??e" in written.getvalue()
    assert (folder / "out" / "weights.safetensors").exists()


def test_a_search_prints_json_lines(config_file: Path, tmp_path: Path, capsys: Any) -> None:
    changes = ["--set", "search.evaluations=4", "--json"]
    main(["search", str(config_file), "--runs", str(tmp_path), "--name", "one", *changes])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sum(line.get("event") == "evaluated" for line in lines) == 4
    assert set(lines[-1]) >= {"dense", "baselines", "front"}


def test_an_exported_user_defined_network_needs_its_factory(tmp_path: Path) -> None:
    facts = {"format": 1, "factory": "os:getcwd", "arguments": {}}
    (tmp_path / "network.json").write_text(json.dumps(facts))
    save_file({"x": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(ModelError, match="factory="):
        blendsearch.load(tmp_path)
    (tmp_path / "network.json").write_text("{")
    with pytest.raises(ModelError, match="damaged"):
        blendsearch.load(tmp_path)


def test_criteria_are_listed(capsys: Any) -> None:
    main(["criteria", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) >= 30
    assert all(row["formula"] and row["source"] for row in rows)


def test_help_loads_no_torch() -> None:
    lines = ("import sys, blendsearch.cli.main as c", "try: c.main(['--help'])", "except SystemExit: pass")
    code = "\n".join([*lines, "assert not {'torch', 'ray', 'numpy'} & set(sys.modules)"])
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
