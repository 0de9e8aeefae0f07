"""What every built-in method guarantees: a spec without torch, networks within the budget, exact resumption."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import blendsearch
from blendsearch.runs.config.method_registry import list_method_names
from blendsearch.testing import check_method

TUNING = {"epochs": 1, "rate": 0.05, "batch_size": 64}
QUICK: dict[str, Any] = {
    "model": {"factory": "digits_net", "arguments": {"width": 8}, "train": {"epochs": 1, "rate": 0.1}},
    "criteria": {"pool": ["l1", "l2"], "images": 32},
    "fitness": {"fidelity": "raw", "device": "cpu"},
    "search": {"evaluations": 8, "population": 4},
    "finals": {"picks": 0, "tuning": TUNING},
    "derived": {"batches": 2, "steps": 2, "tuning": TUNING},
    "tailored": {"tuning": TUNING | {"epochs": 2}},
}


@pytest.mark.parametrize("name", list_method_names())
def test_the_contract_of_a_method(name: str, quick: dict[str, Any], tmp_path: Path) -> None:
    module = f"blendsearch.pipeline.methods.{name.replace('-', '_')}.spec"
    spanned = {"budget": {"macs": [0.25, 0.5]}, name: {"factors": [2, 4], "trained": 1}} if name == "rules" else {}
    check_method(name, quick | QUICK | spanned, tmp_path, module=module)


def test_no_module_outside_a_method_names_it() -> None:
    package = Path(blendsearch.__file__).parent
    names = [f'"{name}"' for name in list_method_names() if name not in ("blended", "random", "depthwise")]
    naming = [
        f"{path.relative_to(package)}: {name}"
        for path in package.rglob("*.py")
        if (package / "pipeline" / "methods") not in path.parents
        for name in names
        if name in path.read_text(encoding="utf-8")
    ]
    assert naming == []


def test_all_methods_and_configs_are_known_without_torch() -> None:
    code = (
        "import sys; from blendsearch.runs.config.loading import load_config; load_config(None); "
        "from blendsearch.runs.config.method_registry import list_methods; assert len(list_methods()) >= 9; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
