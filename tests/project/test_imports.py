"""Heavy and optional packages are imported by what needs them, and by nothing else."""

import gc
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Event

import pytest

from blendsearch.background import call_in_background
from blendsearch.garbage import pause_garbage_collection

HEAVY = {
    *("ray", "matplotlib", "onnx", "onnxruntime", "onnxscript", "torch_pruning", "timm", "datasets", "optuna"),
    *("lightning", "fastapi", "uvicorn", "mlflow", "wandb", "tensorboard", "IPython"),
}
"""Packages of single options: no plain search needs one."""

MEASURING = {"onnx", "onnxruntime", "onnxscript"}
"""Packages that measure latency in ONNX Runtime at the end of a search, where they are installed."""

SCRIPT = """
import json, sys
import blendsearch.cli.main as cli

DYNAMO = {"torch._dynamo", "torch._inductor"}
found = {"import": sorted({name.partition(".")[0] for name in sys.modules})}
for words in json.loads(sys.argv[1]):
    sys.argv = ["blendsearch", *words]
    cli.main(words)
    found[words[0]] = sorted({name.partition(".")[0] for name in sys.modules} | DYNAMO & set(sys.modules))
print("\\n" + json.dumps(found))
"""


def run_verbs(folder: Path, *verbs: list[str]) -> dict[str, set[str]]:
    """Run verbs in one fresh process, and return the top-level packages that it has imported after each of them."""
    command = [sys.executable, "-c", SCRIPT, json.dumps(verbs)]
    environment = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return {verb: set(names) for verb, names in json.loads(done.stdout.splitlines()[-1]).items()}


def test_a_search_without_ray_imports_neither_ray_nor_matplotlib(config_file: Path, tmp_path: Path) -> None:
    small = ["--set", "search.evaluations=4", "--set", "finals.picks=1", "--set", "finals.tuning.epochs=0.5"]
    small += ["--set", "finals.tuning.rate=0.01"]
    found = run_verbs(
        tmp_path,
        ["search", str(config_file), "--name", "one", "--ray", "off", *small],
        ["front", "one", "--all"],
        ["export", "one"],
        ["front", "one", "--out", "front.svg"],
    )
    assert not {"torch", "numpy", "rich", "yaml", "pydantic"} & found["import"]
    assert "torch" in found["search"] and not (HEAVY - MEASURING) & found["search"]
    assert not {"torch._dynamo", "torch._inductor"} & found["search"], "their import takes seconds"
    assert not (HEAVY - MEASURING) & found["export"], "after search, front and export"
    assert (tmp_path / "front.svg").exists() and "ray" not in found["front"]


def test_the_package_is_imported_without_its_parts(tmp_path: Path) -> None:
    code = "import sys; before = set(sys.modules); import blendsearch; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert {name for name in done.stdout.split() if name.startswith("blendsearch")} == {"blendsearch"}
    assert not {"torch", "numpy", "ray", "rich", "deap", "sklearn"} & {
        name.partition(".")[0] for name in done.stdout.split()
    }


@pytest.mark.parametrize("enabled", [True, False])
def test_a_pause_of_garbage_collection_ends_as_it_began(enabled: bool) -> None:
    was_enabled = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with suppress(ImportError), pause_garbage_collection():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()


def test_preparations_run_in_the_background_and_their_errors_are_dropped() -> None:
    began, ended, interval = Event(), Event(), sys.getswitchinterval()

    def prepare() -> None:
        began.set()
        assert ended.wait(60)

    with call_in_background(lambda: 1 / 0, prepare):
        assert began.wait(60), "the block does not wait"
        assert sys.getswitchinterval() != interval
        ended.set()
    assert sys.getswitchinterval() == interval
