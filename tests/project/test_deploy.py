"""The recipes of docs/howto/deploy.md run, and an int8 network has the accuracy that its export reports."""

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
TESTED, _, NOT_RUN = PAGE.partition("\n## Recipes that are not run in CI\n")


def test_every_recipe_of_the_table_is_tested_or_named_as_not_run() -> None:
    rows = re.findall(r"^\| \[(.*?)\]\(.*?\).*\| (.*?) \|$", PAGE, re.MULTILINE)
    assert len(rows) > 5
    for title, state in rows:
        part = {"tested": TESTED, "not run in CI": NOT_RUN}[state]
        assert re.search(rf"^##+ {re.escape(title)}$", part, re.MULTILINE), title


def test_the_tested_recipes_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    shutil.copytree(ROOT / "tests" / "golden" / "runs" / "single", tmp_path / "runs" / "single")
    monkeypatch.chdir(tmp_path)
    (command,) = re.findall(r"^```sh\n(.*?)^```", TESTED, re.DOTALL | re.MULTILINE)
    words = shlex.split(command)
    main([*words[words.index("blendsearch") + 1 :], "--json"])
    facts = json.loads(capsys.readouterr().out)
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
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", TESTED, re.DOTALL | re.MULTILINE))
    exec(compile(code, "deploy.md", "exec"), {})
    found = dict(line.rsplit(": ", 1) for line in capsys.readouterr().out.splitlines() if line.endswith("%"))
    assert found == {
        "float32": f"{facts['val_accuracy']:.2%}",
        "int8": f"{int8['val_accuracy']:.2%}",
        "int8, by hand": f"{int8['val_accuracy']:.2%}",
        "exported program": f"{facts['val_accuracy']:.2%}",
    }


def test_a_network_that_cannot_be_quantised_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from blendsearch.errors import RunError
    from blendsearch.results.export.int8 import write_int8

    (tmp_path / "network.onnx").write_bytes(b"no network")
    splits = SimpleNamespace(train=[0], iter_batches=lambda *_, **__: iter(()))
    evaluator: Any = SimpleNamespace(splits=splits)
    with pytest.raises(RunError, match=r"cannot be written as int8: \w+"):
        write_int8(tmp_path / "network.onnx", evaluator, 0, has_accuracy=True)
