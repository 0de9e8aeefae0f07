"""Names in a config are refused before torch is imported, and the bundled ones are those that the modules register."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from blendsearch.criteria.registry import CRITERIA, load_pool
from blendsearch.data.augment import AUGMENTATIONS
from blendsearch.data.datasets import DATASETS
from blendsearch.errors import BlendsearchError
from blendsearch.runs.config.loading import load_config
from blendsearch.runs.config.names import MODELS, check_names, list_bundled_names, list_criteria
from blendsearch.zoo.factory import ZOO


def test_the_names_read_from_the_source_are_the_registered_ones() -> None:
    load_pool()
    bundled = [name for name, item in CRITERIA.items() if item.score.__module__.startswith("blendsearch.")]
    assert list(list_criteria()) == bundled
    assert set(MODELS) == set(ZOO)
    assert set(list_bundled_names("data", "register_augmentation")) == set(AUGMENTATIONS)
    assert set(list_bundled_names("data", "register_dataset")) == {
        name for name, item in DATASETS.items() if item.__module__.startswith("blendsearch.")
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("criteria.pool=[l1, tailor_gate]", "no criterion is called 'tailor_gate': did you mean 'taylor_gate'"),
        ("criteria.pool=[l1, l1]", "named twice"),
        ("model.factory=digit_net", "did you mean 'digits_net'"),
        ("data.dataset=digit", "did you mean 'digits'"),
        ("data.augment=[flop]", "did you mean 'flip'"),
        ("criteria.augment=[flop]", "did you mean 'flip'"),
        ("engine.ray=ray://head:10001", "is a Ray Client address"),
        ("engine.ray=10.1.2.3:6379", "no token is known"),
    ],
)
def test_an_unknown_name_is_refused_before_torch_is_imported(change: str, message: str, tmp_path: Path) -> None:
    lines = (
        "import sys, blendsearch.cli.main as c",
        f"try: c.main(['search', '--set', {change!r}])",
        "except SystemExit as ended: code = ended.code",
        "assert code == 2 and not {'torch', 'ray', 'numpy', 'scipy'} & set(sys.modules)",
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["HOME"] = str(tmp_path)  # where Ray keeps a token
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert message in done.stderr and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "change",
    [
        ["model.factory=torchvision:resnet18"],
        ["model.factory=my.module:make"],
        ["criteria.modules=[mine]", "criteria.pool=[l1, mine]", "data.dataset=mine"],
    ],
)
def test_names_of_user_defined_code_are_left_to_their_import(change: list[str]) -> None:
    check_names(load_config(None, change))


def test_the_messages_are_those_of_the_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    from blendsearch.criteria.registry import select_criteria
    from blendsearch.zoo.factory import build_model

    load_pool()
    pool = {name: item for name, item in CRITERIA.items() if item.score.__module__.startswith("blendsearch.")}
    monkeypatch.setattr("blendsearch.criteria.registry.CRITERIA", pool)  # other tests register some
    for change, late in (
        ("criteria.pool=[l9]", lambda: select_criteria(["l9"])),
        ("model.factory=digit_net", lambda: build_model("digit_net")),
    ):
        with pytest.raises(BlendsearchError) as early:
            check_names(load_config(None, [change]))
        with pytest.raises(BlendsearchError) as caught:
            late()
        assert (type(early.value), str(early.value)) == (type(caught.value), str(caught.value))
