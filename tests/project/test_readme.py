"""The examples of the README and of the how-to pages run unchanged."""

import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import blendsearch
from blendsearch.cli.main import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def how_to(page: str) -> str:
    return (ROOT / "docs" / "howto" / f"{page}.md").read_text(encoding="utf-8")


def test_the_readme_is_at_most_8_kilobytes() -> None:
    assert len(README.encode()) <= 8000


def test_the_links_of_the_readme_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)", README)
    assert len(links) > 20 and not [link for link in links if not (ROOT / link).exists()]


def test_the_quickstart_in_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    images, labels = torch.rand(120, 1, 8, 8), torch.arange(120) % 3
    names: dict[str, Any] = {
        "model": nn.Sequential(
            *(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
        ),
        **{part: (images[i::3], labels[i::3]) for i, part in enumerate(("train", "val", "test"))},
    }
    section = README.split("## Quickstart")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    quick = 'evaluations=12, criteria=["l1", "l2"], device="cpu", progress=False'
    monkeypatch.chdir(tmp_path)
    exec(code.replace("evaluations=200", quick), names)
    assert names["best"].macs_ratio <= 0.5 and names["small"][0].out_channels < 8


def test_the_quickstart_on_the_command_line_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = README.split("## Quickstart")[1].split("\n## ")[0]
    (code,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    small = ("search.evaluations=4", "criteria.pool=[l1]", "model.train.epochs=1", "finals.tuning.epochs=0.5")
    monkeypatch.chdir(tmp_path)
    for line in code.splitlines():
        words = shlex.split(line, comments=True)
        further = [word for item in small for word in ("--set", item)] if words[1] == "search" else []
        main([*words[1:], *further])
    assert (tmp_path / "small" / "weights.safetensors").exists() and (tmp_path / "config.yaml").exists()


def test_the_user_defined_criterion_is_used_in_a_search(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = how_to("own-criterion")
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


def test_the_budgets_are_valid(tmp_path: Path) -> None:
    from blendsearch.runs.config.loading import DIGITS, load_config
    from blendsearch.runs.config.schema import BudgetConfig

    section = how_to("budgets").split("## All fields")[1].split("\n## ")[0]
    example = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)[0])
    budget = BudgetConfig(**example["budget"])
    assert set(budget.get_spans()) == {"memory", "latency"}
    assert budget.measured == BudgetConfig(macs=0.5).measured  # the defaults, as it says
    command = re.findall(r"--set '(budget=.*?)'", section)[0]
    assert load_config(DIGITS, [command]).budget.get_spans() == {"memory": (0.6, 0.6), "latency": (0.8, 0.8)}


def test_the_example_config_is_valid() -> None:
    from blendsearch.runs.config.loading import parse_config

    example = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", how_to("own-model"), re.DOTALL)[0])
    assert parse_config(example, "own-model").budget.macs == 0.5


def test_the_higher_fidelity_evaluation_is_valid() -> None:
    from blendsearch.runs.config.loading import load_config
    from blendsearch.runs.config.schema import Config

    section = how_to("compare").split("## Higher-fidelity evaluation")[1].split("\n## ")[0]
    tree = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)[0])
    config = Config.model_validate(load_config(None).model_dump() | tree)
    assert config.promote.share == 0.1 and config.finals.distillation == 0.5


def test_the_script_in_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = ROOT / "experiments" / "own_network.py"
    assert "experiments/own_network.py" in README and "own_network.py" in how_to("python")
    search = blendsearch.search
    small = {"evaluations": 12, "finals": {"picks": 1, "tuning": {"epochs": 1}}}
    monkeypatch.setattr(blendsearch, "search", lambda *data, **options: search(*data, **options | small))
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script))
    assert "Conv2d(1, " in capsys.readouterr().out
    assert (tmp_path / "runs" / "sequential-1" / "finished.json").exists()
