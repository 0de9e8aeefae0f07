"""Without extras, searches run and results are read; what needs an extra is refused in one line that names it."""

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from core_environment import ROOT, make_core_environment, make_variables

from blendsearch.extras import EXTRAS

SMALL = (
    "search.evaluations=4",
    "budget.macs=0.5",
    "criteria.pool=[l1,apoz]",
    "model.train.epochs=1",
    "finals.tuning.epochs=0.5",
    "finals.tuning.rate=0.01",
    "fitness.repair=none",
)
SETTINGS = [word for change in SMALL for word in ("--set", change)]

SCRIPT = """
import contextlib, io, json, sys
from blendsearch.cli.main import main

endings = []
for words in json.loads(sys.argv[1]):
    code, out, err = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words)
        except SystemExit as ended:
            code = ended.code
    endings.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(endings))
"""


class Ending(NamedTuple):
    """The end of a verb in the core environment."""

    code: int
    out: str
    err: str


class Core:
    """Runs verbs in one process of an environment without extras."""

    def __init__(self, folder: Path, source: Path = ROOT) -> None:
        self.folder = folder
        self._python = make_core_environment(folder / "environment")
        self._variables = make_variables(source)

    def run(self, *verbs: list[str]) -> list[Ending]:
        command = [str(self._python), "-c", SCRIPT, json.dumps(verbs)]
        done = subprocess.run(command, cwd=self.folder, env=self._variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [Ending(*ending) for ending in json.loads(done.stdout.splitlines()[-1])]


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Core:
    """Make the environment, and in it the run ``one``."""
    found = Core(tmp_path_factory.mktemp("core"))
    (ending,) = found.run(["search", "--name", "one", *SETTINGS])
    assert ending.code == 0 and "blendsearch export one" in ending.out, ending.err
    return found


def test_results_are_read_and_exported(core: Core) -> None:
    verbs = [
        *(["front", "one", "--all"], ["show", "one", "best"], ["status", "one"], ["runs"], ["inspect", "one"]),
        *(["export", "one", "--out", "small"], ["criteria"], ["init"], ["completion", "bash"], ["schema"]),
    ]
    for words, ending in zip(verbs, core.run(*verbs), strict=True):
        assert ending.code == 0, (words, ending.err)
    assert (core.folder / "small" / "weights.safetensors").exists()


def test_a_report_without_figures_names_the_extra(core: Core) -> None:
    (ending,) = core.run(["report", "one"])
    assert ending.code == 0 and ending.err.count("\n") == 1 and "pip install 'blendsearch[plots]'" in ending.err
    page = (core.folder / "one.html").read_text("utf-8")
    assert "<svg" not in page and "A report with figures needs matplotlib: pip install" in page
    assert 'id="networks"' in page and 'id="picks"' in page and "Clusters of Spearman" in page


REFUSED = {
    "ray": ["search", "--ray", "local", *SETTINGS],
    "cluster": ["job", "status", "one", "--address", "http://127.0.0.1:8265"],
    "plots": ["front", "one", "--out", "front.png"],
    "onnx": ["export", "one", "--out", "small-onnx", "--onnx"],
    "serve": ["serve", "--port", "0"],
    "tensorboard": ["search", "--track", "tensorboard", *SETTINGS],
    "mlflow": ["search", "--track", "mlflow", *SETTINGS],
    "wandb": ["search", "--track", "wandb", *SETTINGS],
    "timm": ["search", "--set", "model.factory=timm:resnet18", *SETTINGS],
    "huggingface": [
        *("search", "--set", "data={dataset: huggingface, name: a/b, keys: [img, label], image_size: 8}"),
        *SETTINGS,
    ],
    "peers": ["compare", "one", "--controls", "torch-pruning", "--seeds", "1"],
}
"""A command that needs each extra; that of `optuna` is in Python, that of `train` needs Ray first."""


def test_what_needs_an_extra_is_refused_in_one_line(core: Core) -> None:
    *endings, picture = core.run(*REFUSED.values(), ["criteria", "--map", "map.png"])
    wrong: dict[str, Any] = {}
    for extra, ending in (*zip(REFUSED, endings, strict=True), ("plots", picture)):
        last = ending.err.splitlines()[-1] if ending.err else ""
        named = re.search(r"pip install 'blendsearch\[(\w+)\]'", last)
        if ending.code != 2 or not named or named.group(1) != extra or "Traceback" in ending.err:
            wrong[extra] = ending
    assert not wrong
    assert not {path.name for path in (core.folder / "runs").iterdir() if path.is_dir()} - {"one"}


def test_every_extra_is_known() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    assert set(EXTRAS) == set(extras) - {"all"}
    assert extras["all"] == [f"blendsearch[{','.join(sorted(set(EXTRAS) - {'ray'}))}]"], "ray is a part of cluster"
    assert set(REFUSED) == set(EXTRAS) - {"optuna", "train"}
