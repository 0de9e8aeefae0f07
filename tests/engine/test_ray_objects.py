"""Objects that cannot be sent to Ray's workers are named before Ray is started."""

import sqlite3
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import blendsearch as bs
from blendsearch.engine.ray_objects import check_sendable
from blendsearch.errors import EngineError

LOCK = threading.Lock()
NUMBERS = (number for number in range(3))


class Metric:
    def __init__(self) -> None:
        self.state = {"database": sqlite3.connect(":memory:")}

    def evaluate(self, module: nn.Module) -> dict[str, float]:
        return {"loss": 0.0}


def make_closure() -> Callable[..., Any]:
    lock = threading.RLock()

    def evaluate(module: nn.Module) -> dict[str, float]:
        with lock:
            return {"loss": 0.0}

    return evaluate


def make_nested() -> Callable[..., Any]:
    numbers = (number for number in range(3))

    def helper() -> int:
        return next(numbers)

    return lambda module: {"loss": float(helper())}


CASES: dict[str, tuple[Any, str]] = {
    "closure": (make_closure(), r"evaluate cannot be sent to Ray's workers, as it holds a RLock \(lock\)"),
    "generator": (make_nested(), r"it holds a generator \(numbers\)"),
    "method": (Metric().evaluate, r"it holds a sqlite3.Connection \(database\)"),
    "partial": (partial(len, threading.Lock()), r"it holds a lock \(an argument\)"),
    "itself": (threading.Lock(), "it is a lock"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_part_that_cannot_be_sent_is_named(name: str) -> None:
    value, message = CASES[name]
    with pytest.raises(EngineError, match=message) as caught:
        check_sendable({"evaluate": value})
    assert "\n" not in str(caught.value) and "search with ray off" in str(caught.value)
    check_sendable({"evaluate": lambda module: {"loss": 0.0}})


def test_a_search_names_it_before_anything_starts(tmp_path: Path) -> None:
    block = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    data = (torch.randn(30, 3, 8, 8), torch.arange(30) % 3)
    for given in ({"evaluate": make_closure()}, {"loss": make_nested()}):
        with pytest.raises(EngineError, match=f"{next(iter(given))} cannot be sent"):
            bs.search(block, data, budget=bs.macs(0.6), ray="local", runs=tmp_path, progress=False, **given)  # type: ignore[misc]
    assert not list(tmp_path.iterdir())
