"""The control that trains from random weights."""

import numpy as np
import pytest
import torch
from torch import nn

from blendsearch.errors import ModelError
from blendsearch.pipeline.methods.scratch.method import draw_weights


def make_network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))


def test_weights_depend_on_the_seed_alone() -> None:
    first, second, third = make_network(0), make_network(1), make_network(0)
    with torch.no_grad():
        first[1].running_mean += 3  # type: ignore[operator]
    before = torch.random.get_rng_state()
    for network, seed in ((first, 5), (second, 5), (third, 6)):
        draw_weights(network, seed)
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert not torch.equal(first[0].weight, third[0].weight)  # type: ignore[arg-type]
    assert np.allclose(first[1].running_mean, 0)  # type: ignore[arg-type]


def test_weights_that_cannot_be_drawn_are_refused() -> None:
    network = nn.Module()
    network.register_parameter("scale", nn.Parameter(torch.ones(3)))
    with pytest.raises(ModelError, match="Module has no reset_parameters"):
        draw_weights(network, 0)
