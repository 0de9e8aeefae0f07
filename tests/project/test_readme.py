"""What the README shows works as it stands there."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import yaml

from blendsearch.cli.main import main

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_criterion_of_ones_own_is_searched_with(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = README.split("## A criterion of your own")[1]
    code, config = (re.findall(rf"```{kind}\n(.*?)```", section, re.DOTALL)[0] for kind in ("python", "yaml"))
    (tmp_path / "mine.py").write_text(code)
    monkeypatch.chdir(tmp_path)  # modules beside the config are found
    monkeypatch.setattr("sys.path", list(sys.path))
    tree = yaml.safe_load(config_file.read_text()) | yaml.safe_load(config)
    config_file.write_text(yaml.safe_dump(tree))
    main(
        [
            "search",
            str(config_file),
            "--runs",
            str(tmp_path / "runs"),
            "--name",
            "one",
            "--set",
            "search.evaluations=12",
        ]
    )
    assert "5 criteria scored" in capsys.readouterr().out


def test_the_budgets_are_understood(tmp_path: Path) -> None:
    from blendsearch.runs.config.loading import DIGITS, load_config
    from blendsearch.runs.config.schema import BudgetConfig

    section = README.split("## Budgets")[1].split("\n## ")[0]
    example = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)[0])
    budget = BudgetConfig(**example["budget"])
    assert set(budget.get_spans()) == {"memory", "latency"}
    assert budget.measured == BudgetConfig(macs=0.5).measured  # the defaults, as it says
    command = re.findall(r"--set '(budget=.*?)'", section)[0]
    assert load_config(DIGITS, [command]).budget.get_spans() == {"memory": (0.6, 0.6), "latency": (0.8, 0.8)}


def test_the_example_config_is_one() -> None:
    from blendsearch.runs.config.loading import parse_config

    example = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)[0])
    assert parse_config(example, "README").budget.macs == 0.5


def test_the_dearer_judgements_are_understood() -> None:
    from blendsearch.runs.config.loading import load_config
    from blendsearch.runs.config.schema import Config

    section = README.split("## Was the search worth it?")[1].split("\n## ")[0]
    tree = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)[0])
    config = Config.model_validate(load_config(None).model_dump() | tree)
    assert config.promote.share == 0.1 and config.finals.distillation == 0.5


def test_the_example_in_python_is_the_script_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = README.split("## In Python")[1].split("\n## ")[0]
    script = Path(__file__).parents[2] / "experiments" / "own_network.py"
    assert re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0] == script.read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script))
    assert "Conv2d(1, " in capsys.readouterr().out
    assert (tmp_path / "runs" / "sequential-1" / "finished.json").exists()
