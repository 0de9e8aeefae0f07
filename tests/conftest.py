"""What several test files need: the data kept beside the project, small networks, and a search that takes seconds."""

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
torch.set_num_threads(1)  # two threads that share two cores with anything else wait for each other


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with CIFAR and the trained ResNet-56."""
    if not SHARED.is_dir():
        pytest.skip("the data folder beside the project is absent")
    return SHARED


@pytest.fixture(scope="session")
def small_config() -> dict[str, Any]:
    """`quick`, for what is made once for many tests; not to be changed."""
    return _quick()


@pytest.fixture
def quick() -> dict[str, Any]:
    """A whole search on digits in a few seconds, as a config's tree."""
    return _quick()


def _quick() -> dict[str, Any]:
    return {
        "model": {"factory": "digits_net", "arguments": {"width": 8}, "train": {"epochs": 3, "rate": 0.1}},
        "data": {"dataset": "digits", "val_size": 0.3},
        "criteria": {"pool": ["l1", "bn_gamma", "apoz", "taylor_gate"], "images": 128},
        "budget": {"macs": 0.5},
        "fitness": {"recalibration_images": 128, "device": "cpu"},
        "search": {"evaluations": 30, "population": 8},
        "engine": {"threads": 1},
        "seed": 3,
    }


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory, small_config: dict[str, Any]) -> Path:
    """A folder with one finished run, ``one``; to be copied before it is changed."""
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
    """Weights of a trained network one group of which is provably useless; see known_nets."""
    path = tmp_path_factory.mktemp("useless") / "net.safetensors"
    silent_branch(path)
    return path
