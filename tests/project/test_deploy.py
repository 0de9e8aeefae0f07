"""The recipes of docs/howto/deploy.md run, and an int8 network has the accuracy that its export reports."""

import importlib.util
import json
import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from blendsearch.cli.main import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "howto" / "deploy.md").read_text(encoding="utf-8")
TESTED, _, REST = PAGE.partition("\n## Recipes with further packages\n")
OPTIONAL, _, NOT_RUN = REST.partition("\n## TensorRT\n")
STATES = {
    "tested": TESTED,
    "tested where installed": OPTIONAL,
    "conversion only, tested where installed": OPTIONAL,
    "not run": f"## TensorRT\n{NOT_RUN}",
}
RECIPES = {
    "OpenVINO": ("openvino", "nncf"),
    "PyTorch int8, by torchao": ("torchao",),
    "ExecuTorch": ("executorch",),
    "Core ML": ("coremltools",),
}
"""Packages of each optional recipe; none is installed with the extras of blendsearch."""


def read_scripts(text: str) -> str:
    """Return the Python blocks of a part of the page, as one program."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))


def read_section(title: str) -> str:
    """Return the text of the section with this title."""
    found = re.search(rf"^##+ {re.escape(title)}$(.*?)(?=^##|\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None, title
    return found[1]


def read_accuracies(output: str) -> dict[str, str]:
    """Return the accuracies that a script prints, by its names of the networks."""
    return dict(line.rsplit(": ", 1) for line in output.splitlines() if re.search(r": [\d.]+%$", line))


def export_golden_run(folder: Path, capsys: Any) -> Any:
    """Run the command of the page in `folder`, the working directory; return its JSON."""
    shutil.copytree(ROOT / "tests" / "golden" / "runs" / "single", folder / "runs" / "single")
    (command,) = re.findall(r"^```sh\n(.*?)^```", TESTED, re.DOTALL | re.MULTILINE)
    words = shlex.split(command)
    main([*words[words.index("blendsearch") + 1 :], "--json"])
    return json.loads(capsys.readouterr().out)


def test_every_recipe_of_the_table_is_tested_or_named_as_not_run() -> None:
    rows = re.findall(r"^\| \[(.*?)\]\(.*?\).*\| (.*?) \|$", PAGE, re.MULTILINE)
    assert len(rows) > 5
    for title, state in rows:
        assert re.search(rf"^##+ {re.escape(title)}$", STATES[state], re.MULTILINE), title
    assert {title for title, state in rows if "where installed" in state} == RECIPES.keys()


def test_the_tested_recipes_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    facts = export_golden_run(tmp_path, capsys)
    files = {item["name"]: item for item in facts["files"]}
    int8 = files["network.int8.onnx"]
    assert set(files) == {path.name for path in Path("small").iterdir()}
    assert int8["bytes"] == Path("small/network.int8.onnx").stat().st_size
    weights = [item for item in onnx.load("small/network.int8.onnx").graph.initializer if len(item.dims) == 4]
    assert len(weights) > 3 and {item.data_type for item in weights} == {onnx.TensorProto.INT8}
    assert int8["calibration_images"] > 0 and int8["val_accuracy"] >= facts["val_accuracy"] - 0.05
    assert f"`network.int8.onnx`, {int8['bytes']:,} bytes, validation accuracy {int8['val_accuracy']:.2%}" in (
        Path("small/README.md").read_text(encoding="utf-8")
    )
    names: dict[str, Any] = {}
    exec(compile(read_scripts(TESTED), "deploy.md", "exec"), names)
    found = read_accuracies(capsys.readouterr().out)
    chosen = float(found.pop("chosen as int8").rstrip("%")) / 100
    assert found == {
        "float32": f"{facts['val_accuracy']:.2%}",
        "int8": f"{int8['val_accuracy']:.2%}",
        "int8, by hand": f"{int8['val_accuracy']:.2%}",
        "exported program": f"{facts['val_accuracy']:.2%}",
    }
    check_choice(names, chosen)


def check_choice(names: dict[str, Any], exported: float) -> None:
    """Compare the results of the run that evaluates int8 networks with the int8 network of its best one."""
    best = names["best"]
    (final,) = best.record.finals
    again = names["make_evaluation"](*names["val"])(best.module())
    assert final.val_loss == pytest.approx(float(again["loss"]), abs=1e-4)
    assert final.val_accuracy == pytest.approx(1 - float(again["error"]), abs=1e-6)
    assert exported == pytest.approx(final.val_accuracy, abs=0.02)
    dense = names["make_evaluation"](*names["val"])(names["run"].load_problem().model)
    assert names["run"].dense().val_loss == pytest.approx(float(dense["loss"]), abs=1e-4)


@pytest.mark.parametrize("title", RECIPES)
def test_an_optional_recipe_runs(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for package in ("onnxruntime", *RECIPES[title]):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{title} needs {package}, which is not installed")
    if title == "PyTorch int8, by torchao" and shutil.which("g++") is None:
        pytest.skip(f"{title} needs a C++ compiler")
    monkeypatch.chdir(tmp_path)
    accuracy = export_golden_run(tmp_path, capsys)["val_accuracy"]
    code = compile(read_scripts(read_section("The images") + read_section(title)), f"deploy.md: {title}", "exec")
    exec(code, {})
    found = read_accuracies(capsys.readouterr().out)
    assert set(found) == set(re.findall(r"^\s*print\(f\"(.*?): ", read_section(title), re.MULTILINE))
    for name, text in found.items():
        within = 0.05 if name.endswith("int8") else 0.005
        assert float(text.rstrip("%")) / 100 == pytest.approx(accuracy, abs=within), name
    if title == "Core ML":
        assert Path("small.mlpackage/Manifest.json").is_file()


def test_a_network_that_cannot_be_quantised_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from blendsearch.errors import RunError
    from blendsearch.results.export.int8 import write_int8

    (tmp_path / "network.onnx").write_bytes(b"no network")
    splits = SimpleNamespace(train=[0], iter_batches=lambda *_, **__: iter(()))
    evaluator: Any = SimpleNamespace(splits=splits)
    with pytest.raises(RunError, match=r"cannot be written as int8: \w+"):
        write_int8(tmp_path / "network.onnx", evaluator, 0, has_accuracy=True)
