"""The built-in examples: configs that take the place of a file by their names."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from blendsearch.cli.main import main
from blendsearch.errors import ConfigError
from blendsearch.runs.config.loading import EXAMPLES, load_config, parse_config
from blendsearch.runs.config.names import check_names


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_loads_by_its_name_and_is_checked(name: str) -> None:
    config = load_config(Path(name), ["search.evaluations=7"])
    check_names(config)
    assert config.data.dataset == name and config.search.evaluations == 7
    with pytest.raises(ConfigError, match=f"the {name} example and --set: nothing"):
        load_config(Path(name), ["nothing=1"])


def test_the_digits_are_the_example_without_a_name() -> None:
    assert load_config(None) == load_config(Path("digits"))


def test_a_file_with_the_name_of_an_example_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("clutter").write_text(EXAMPLES["digits"].read_text())
    assert load_config(Path("clutter")).data.dataset == "digits"


def test_init_copies_an_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    main(["init", "--example", "clutter"])
    tree = yaml.safe_load(Path("config.yaml").read_text())
    assert parse_config(tree, "it") == load_config(Path("clutter"))
    assert "blendsearch search config.yaml" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["init", "--example", "clutter", "--model", "digits_net", "--out", "other.yaml"])
    assert "--example has its own network" in capsys.readouterr().err and not Path("other.yaml").exists()
