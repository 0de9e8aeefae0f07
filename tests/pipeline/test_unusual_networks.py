"""Searches of unusual networks from Python: modes of torch, layers that never run, budgets out of reach."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import blendsearch as bs
from blendsearch.errors import BudgetError, ModelError
from blendsearch.events import Warned

IMAGES = np.random.default_rng(0).standard_normal((60, 3, 8, 8)).astype(np.float32)
DATA = (IMAGES, np.arange(60) % 3)


class Net(nn.Module):
    """Two convolutions, a layer that some images reach, and a coupling of all channels if asked."""

    def __init__(self, couples: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.norm, self.two = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 12, 3)
        self.free, self.out = nn.Conv2d(12, 8, 1), nn.Linear(8, 3)
        self.rare, self.couples = nn.Conv2d(12, 12, 1), couples

    def forward(self, x: Tensor) -> Tensor:
        z = F.relu(self.norm(self.one(x)))
        z = self.two(z.softmax(dim=1) if self.couples else z)
        if x.max() > 100:
            z = self.rare(z)
        z = F.relu(self.free(F.relu(z)))
        return self.out(F.dropout(z, 0.2, training=True).mean(dim=(2, 3)))


def search(tmp_path: Path, model: nn.Module, **options: Any) -> Any:
    chosen: dict[str, Any] = {"evaluations": 4, "criteria": ["l1", "taylor_gate"], "progress": False}
    chosen["finals"] = {"picks": 0}
    return bs.search(model, DATA, runs=str(tmp_path / "runs"), **{"budget": bs.macs(0.7), **chosen, **options})


def test_modes_of_the_caller_do_not_matter_and_stay(tmp_path: Path) -> None:
    warned: list[str] = []

    def record(event: object) -> None:
        if isinstance(event, Warned):
            warned.append(event.text)

    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode():
            run = search(tmp_path, Net().float(), progress=record)
            assert torch.is_inference_mode_enabled() and not torch.is_grad_enabled()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert run.best().macs_ratio <= 0.7
    assert any(text.startswith("rare did not run on any of the traced training images") for text in warned)


def test_a_budget_out_of_reach_lists_what_stays_unpruned(tmp_path: Path) -> None:
    with pytest.raises(BudgetError) as caught:
        search(tmp_path, Net(couples=True))
    text = str(caught.value)
    assert "\n" not in text
    assert "Unpruned are" in text
    assert "one: _softmax in Net reads all its channels at once (" in text
    assert "two: rare, which none of 8 traced images reaches, could read it (" in text
    assert "% of the macs)" in text


def test_statistics_that_are_not_numbers_are_named(tmp_path: Path) -> None:
    model = Net()
    model.norm.running_var.fill_(float("nan"))
    with pytest.raises(ModelError, match=r"holds NaN or infinity in norm\.running_var"):
        search(tmp_path, model)
