"""A search of four evaluations by one criterion, for tests of what stands around it."""

from pathlib import Path
from typing import Any

from torch import nn

import blendsearch as bs


def search_briefly(model: nn.Module, data: Any, share: float, runs: Path) -> Any:
    """Search `model` at a share of its MACs; the run is called ``folded``."""
    return bs.search(
        model,
        data,
        budget=bs.macs(share),
        runs=str(runs),
        name="folded",
        progress=False,
        evaluations=4,
        criteria=["l1"],
        finals={"picks": 0},
        engine={"threads": 1},
    )
