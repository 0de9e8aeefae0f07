"""Optimizers without torch._dynamo compute the same; test_imports.py tests that a search does not load it."""

import pytest
import torch
from torch import nn

from blendsearch.dynamo import make_eager


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_steps_without_dynamo_are_the_same(optimizer: type[torch.optim.Optimizer]) -> None:
    ended = []
    for kind in (optimizer, make_eager(optimizer)):
        torch.manual_seed(0)
        network = nn.Linear(3, 2)
        found = kind(network.parameters(), lr=0.1, weight_decay=0.1)
        for _ in range(3):
            found.zero_grad()
            network(torch.ones(4, 3)).square().sum().backward()
            found.step()
        ended.append((network.state_dict(), found.state_dict()))
    assert torch.equal(ended[0][0]["weight"], ended[1][0]["weight"])
    assert ended[0][1]["param_groups"] == ended[1][1]["param_groups"]
