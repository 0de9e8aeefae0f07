"""Notebooks: a progress bar during the search, and results as tables and pictures."""

from pathlib import Path

import pytest

CODE = """
import torch
import blendsearch as bs
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 2))
data = torch.randn(120, 1, 8, 8), torch.arange(120) % 2
run = bs.search(model, data, budget=bs.macs(0.5), evaluations=12, criteria=["l1", "l2", "apoz"], device="cpu")
"""


@pytest.mark.slow
def test_a_notebook_shows_a_bar_tables_and_pictures(tmp_path: Path) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    cells = [nbformat.v4.new_code_cell(code) for code in (CODE, "run", "run.front()", "run.best()")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    bar, run, front, best = (cell["outputs"] for cell in notebook.cells)
    pages = [output["data"]["text/html"] for output in bar if "data" in output]
    assert len(pages) == 1 and "12 done" in pages[0] and "<progress" in pages[0]
    assert not [output for output in bar if output.get("name") == "stderr"]
    for outputs in (run, front, best):
        assert "<table>" in outputs[0]["data"]["text/html"] and outputs[0]["data"]["image/png"]
