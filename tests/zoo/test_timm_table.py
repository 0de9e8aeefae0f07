"""The published table of timm's families."""

import importlib.util
import json
from pathlib import Path

HERE = Path(__file__).parents[2]


def test_the_published_table_is_that_of_the_last_sweep() -> None:
    spec = importlib.util.spec_from_file_location("timm_sweep", HERE / "experiments/zoo/timm_sweep.py")
    assert spec is not None and spec.loader is not None
    sweep = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sweep)
    data = json.loads((HERE / "experiments/zoo/timm.json").read_text())
    assert set(data["models"]) <= set(sweep.NETWORKS.values())
    assert sweep.format_table(data["models"]) in (HERE / "docs/zoo.md").read_text()
