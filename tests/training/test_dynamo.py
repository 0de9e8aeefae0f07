"""torch._dynamo, whose import takes seconds, is not loaded by a search; optimizers without it compute the same."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from blendsearch.dynamo import make_eager


def test_a_search_does_not_load_dynamo(config_file: Path, tmp_path: Path) -> None:
    changes = ["search.evaluations=4", "finals.picks=1", "finals.tuning.epochs=0.5", "finals.tuning.rate=0.01"]
    words = ["search", str(config_file), *(word for change in changes for word in ("--set", change))]
    lines = (
        "import sys, blendsearch.cli.main as c",
        f"c.main({words!r})",
        "assert not {'torch._dynamo', 'torch._inductor', 'ray', 'matplotlib'} & set(sys.modules)",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


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
