"""Fixtures of several test files: shared data, small networks, and a search that takes seconds."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import settings
from known_nets import silent_branch

SHARED = Path(__file__).parents[2] / "shared" / "data"

settings.register_profile("blendsearch", deadline=None, max_examples=25)
settings.load_profile("blendsearch")
sys.dont_write_bytecode = False  # tests start many processes, and each would compile torch and Ray again
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
torch.set_num_threads(1)  # two threads that share two cores with anything else wait for each other

LONGEST = {
    *("test_faults.py", "test_signals.py", "test_pages.py", "test_local_cluster.py", "test_engine.py"),
    *("test_service_searching.py", "test_schedules.py", "test_growth.py", "test_devices.py", "test_golden.py"),
    *("test_elastic_search.py", "test_report.py", "test_damaged_runs.py", "test_safety.py", "test_moved_runs.py"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no core is idle at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder with CIFAR and the trained ResNet-56."""
    if not SHARED.is_dir():
        pytest.skip("the data folder beside the project is absent")
    return SHARED


@pytest.fixture(scope="session")
def small_config() -> dict[str, Any]:
    """Return the tree of `quick` for session fixtures; do not change it."""
    return _quick()


@pytest.fixture
def quick() -> dict[str, Any]:
    """Return the config tree of a search on digits that takes a few seconds."""
    return _quick()


def _quick() -> dict[str, Any]:
    return {
        "model": {"factory": "digits_net", "arguments": {"width": 8}, "train": {"epochs": 3, "rate": 0.1}},
        "data": {"dataset": "digits", "val_size": 0.3},
        "criteria": {"pool": ["l1", "bn_gamma", "apoz", "taylor_gate"], "images": 128},
        "budget": {"macs": 0.5, "round_to": 1},  # the network is narrow
        "fitness": {"recalibration_images": 128, "repair": "none", "device": "cpu"},
        "search": {"evaluations": 30, "population": 8},
        "finals": {"picks": 0},
        "engine": {"threads": 1},
        "seed": 3,
    }


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory, small_config: dict[str, Any]) -> Path:
    """Make a folder with one finished run, ``one``; copy it before changing it."""
    from blendsearch.cli.main import main

    folder = tmp_path_factory.mktemp("searched")
    (folder / "config.yaml").write_text(yaml.safe_dump(small_config))
    main(["search", str(folder / "config.yaml"), "--runs", str(folder / "runs"), "--name", "one"])
    return folder / "runs"


@pytest.fixture
def config_file(tmp_path: Path, quick: dict[str, Any]) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(quick))
    return path


@pytest.fixture(scope="session")
def useless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write weights of a trained network with one provably useless group; see known_nets."""
    path = tmp_path_factory.mktemp("useless") / "net.safetensors"
    silent_branch(path)
    return path
