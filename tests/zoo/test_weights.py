"""Checkpoints of training frameworks, and files that cannot be read without running code."""

import argparse
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from blendsearch.errors import ModelError
from blendsearch.zoo.digits_net import digits_net
from blendsearch.zoo.weights import load_weights

SOURCE = digits_net()
STATE = SOURCE.state_dict()


def prefix(start: str, **more: Any) -> dict[str, Any]:
    return {f"{start}{name}": tensor for name, tensor in STATE.items()} | more


LOADED: dict[str, Any] = {
    "plain": STATE,
    "Lightning": {"state_dict": prefix("model."), "epoch": 1, "pytorch-lightning_version": "2.5"},
    "Lightning with a loss": {"state_dict": prefix("model.", **{"criterion.weight": torch.ones(3)})},
    "Lightning of a compiled network": {"state_dict": prefix("model._orig_mod.")},
    "Lightning of a parallel network": {"state_dict": prefix("model.module.")},
    "compiled parallel": prefix("module._orig_mod."),
    "parallel compiled": prefix("_orig_mod.module."),
    "compiled part": {name.replace("down.", "down._orig_mod."): tensor for name, tensor in STATE.items()},
    "averaged": {"model_ema": AveragedModel(SOURCE).state_dict(), "epoch": 3},
    "timm": {"state_dict_ema": STATE, "arch": "digits_net"},
    "torchvision": {"model": STATE, "optimizer": {}, "model_ema": prefix("module.")},
    "net": {"net": prefix("net.")},
}


@pytest.mark.parametrize("name", LOADED)
def test_checkpoints_of_training_frameworks_are_loaded(name: str, tmp_path: Path) -> None:
    torch.save(LOADED[name], tmp_path / "w.pt")
    model = digits_net()
    nn.init.zeros_(next(model.parameters()))
    load_weights(model, tmp_path / "w.pt")
    assert all(torch.equal(tensor, STATE[key]) for key, tensor in model.state_dict().items())


class Net(nn.Module):
    """A network with a part that is called like a prefix."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(2, 3)
        self.module = nn.Linear(3, 2)


def test_parts_that_are_called_like_prefixes_stay(tmp_path: Path) -> None:
    source, model = Net(), Net()
    for start in ("", "model.", "module."):
        torch.save({f"{start}{name}": tensor for name, tensor in source.state_dict().items()}, tmp_path / "w.pt")
        load_weights(model, tmp_path / "w.pt")
        assert torch.equal(model.model.weight, source.model.weight)


REFUSED: dict[str, tuple[Any, str]] = {
    "whole network": (SOURCE, "hold a whole pickled DigitsNet .*unpickling it would run code.*torch.save.model.state"),
    "network inside": ({"model": SOURCE}, "hold an object of blendsearch.zoo.digits_net.DigitsNet beside the tensors"),
    "namespace": ({"state_dict": STATE, "args": argparse.Namespace(a=1)}, "hold an object of argparse.Namespace"),
    "scalar": ({"state_dict": STATE, "best": np.float64(0.9)}, "hold an object of numpy.*beside"),
    "numbers as names": ({1: torch.ones(1)}, "hold a dict with 1, expected a state dict of tensors"),
    "other network": (prefix("encoder."), "lacks classifier.bias.*has in addition encoder.classifier.bias"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_checkpoints_that_need_code_or_do_not_fit_are_refused(name: str, tmp_path: Path) -> None:
    content, message = REFUSED[name]
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=message) as caught:
        load_weights(digits_net(), tmp_path / "w.pt")
    text = str(caught.value)
    assert "\n" not in text and "\x1b" not in text and "two options" not in text


def test_scripted_networks_and_pointers_are_named(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "w.pt"))
    with pytest.raises(ModelError, match="are a TorchScript archive"):
        load_weights(digits_net(), tmp_path / "w.pt")
    (tmp_path / "v.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(ModelError, match="are a pointer of Git LFS"):
        load_weights(digits_net(), tmp_path / "v.pt")


OTHER_FORMATS = {
    "empty": (b"", "are an empty file"),
    "part": (b"PK\x03\x04" + bytes(400), "are not complete"),
    "web page": (b"<!DOCTYPE html><html>", "are a web page or XML: download the file itself"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "are an HDF5 file"),
    "JSON": (b'{"weight_map": {}}', "are JSON, which holds no tensors"),
    "text": (b"hello world", r"cannot be read as plain tensors \(no checkpoint of torch\): save a state dict"),
    "pickle": (pickle.dumps({"a": 1}), r"cannot be read as plain tensors \(no checkpoint of torch\)"),
}


@pytest.mark.parametrize("name", OTHER_FORMATS)
def test_files_of_other_formats_are_named(name: str, tmp_path: Path) -> None:
    content, message = OTHER_FORMATS[name]
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        load_weights(digits_net(), tmp_path / "w.pt")
    assert "weights_only" not in str(caught.value) and "\n" not in str(caught.value)


def test_numpy_archives_are_named_and_safetensors_are_read_by_their_content(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", **{name: tensor.numpy() for name, tensor in STATE.items()})
    with pytest.raises(ModelError, match="are NumPy arrays, which are not read"):
        load_weights(digits_net(), tmp_path / "w.npz")
    save_file({name: tensor.clone() for name, tensor in STATE.items()}, tmp_path / "w.pt")
    load_weights(digits_net(), tmp_path / "w.pt")
