"""The training loops of the documentation: plain PyTorch, Lightning, timm, and parts of the built-in one."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluations import load_digits_splits
from torch.utils.data import TensorDataset

from blendsearch.zoo.digits_net import digits_net

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "training.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
NAMES = ("plain", "lightning", "timm", "parts")
QUICK = (
    'fitness={"fidelity": "recalibrated", "device": "cpu"}, runs="here", evaluations=6, criteria=["l1"], '
    'progress=False, engine={"threads": 1}'
)


def make_data(name: str, count: int) -> TensorDataset:
    splits = load_digits_splits()
    batches = splits.iter_batches(getattr(splits, name), batch_size=count, device=torch.device("cpu"))
    return TensorDataset(*next(iter(batches)))


@pytest.mark.parametrize(("name", "code"), zip(NAMES, BLOCKS, strict=True), ids=NAMES)
@pytest.mark.filterwarnings("ignore")
def test_a_training_loop_of_the_documentation_trains_the_finals(
    name: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in ("lightning", "timm"):
        pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    given: dict[str, Any] = {
        "model": digits_net(width=8),
        "train_set": make_data("train", 320),
        "val_set": make_data("val", 80),
    }
    short = f'{QUICK}, finals={{"tuning": {{"epochs": 2, "rate": 0.01}}}}'
    code = re.sub(r"finals=\{.*\},\n", "", code).replace("budget=bs.macs(0.5)", f"budget=bs.macs(0.5), {short}")
    exec(code, given)
    (final, *_) = given["run"].summary()["finals"]
    assert final["val_loss"] < given["run"].network(str(final["id"])).val_loss
    assert not list((tmp_path / "here").glob("*/training/*"))
