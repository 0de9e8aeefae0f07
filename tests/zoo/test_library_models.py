"""Networks of timm and torchvision by name, with and without the weights that their factories bring."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from blendsearch.errors import ModelError
from blendsearch.zoo.factory import build_model, build_untrusted_model
from blendsearch.zoo.size_limits import SizeLimit

timm = pytest.importorskip("timm")
ANY = SizeLimit(None, "")


def test_timm_networks_are_built_by_name_without_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def create_model(name: str, **arguments: Any) -> nn.Module:
        asked.append({"name": name, **arguments})
        return nn.Conv2d(1, 1, 1)

    monkeypatch.setattr(timm, "create_model", create_model)
    build_model("timm:resnet10t.c3_in1k", {"num_classes": 3})
    build_model("timm:resnet10t", {"num_classes": 3}, brings_weights=True)
    build_model("timm:resnet10t", {"checkpoint_path": "w.pt"}, brings_weights=True)
    build_untrusted_model("timm:resnet10t", {"pretrained": True, "checkpoint_path": "w.pt", "num_classes": 3}, ANY)
    plain = {"name": "resnet10t", "num_classes": 3}
    named = [item for number, item in enumerate(asked) if number == 0 or item != asked[number - 1]]  # probed and built
    assert named == [
        plain | {"name": "resnet10t.c3_in1k"},
        plain | {"pretrained": True},
        {"name": "resnet10t", "checkpoint_path": "w.pt"},
        plain,
    ]


def test_timm_networks_have_the_weights_of_their_checkpoint(tmp_path: Path) -> None:
    source = timm.create_model("test_resnet", num_classes=3)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    arguments = {"num_classes": 3, "checkpoint_path": str(tmp_path / "w.pt")}
    found = build_model("timm:test_resnet", arguments, brings_weights=True).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in source.state_dict().items())


@pytest.mark.parametrize("name", ["resnet1O", "hf-hub:org/model", "local-dir:here", ""])
def test_names_that_are_no_networks_of_timm_are_refused(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        build_model(f"timm:{name}")
    assert "\n" not in str(caught.value)


def test_the_extra_is_named_where_timm_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModelError, match=r"timm:resnet18 needs timm: pip install 'blendsearch\[timm\]'"):
        build_model("timm:resnet18")


def test_torchvision_brings_weights_only_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def make(*, weights: Any = None, num_classes: int = 10) -> nn.Module:
        asked.append(weights)
        return nn.Conv2d(1, 1, 1)

    monkeypatch.setattr(torchvision.models, "get_model_builder", lambda name: make)
    build_model("torchvision:made", brings_weights=True)
    build_model("torchvision:made", {"weights": "IMAGENET1K_V1"}, brings_weights=True)
    assert set(asked) == {"DEFAULT", "IMAGENET1K_V1"}
    asked.clear()
    build_model("torchvision:made")
    build_untrusted_model("torchvision:made", {"weights": "DEFAULT"}, ANY)
    assert set(asked) == {None}
