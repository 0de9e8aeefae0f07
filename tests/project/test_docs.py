"""The documentation: the reference is complete, and commands, configs and code on its pages are valid."""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import BaseModel
from torch import nn

import blendsearch
from blendsearch.cli.main import main
from blendsearch.cli.parser import make_parser
from blendsearch.criteria.registry import CRITERIA, load_pool
from blendsearch.runs.config.loading import load_config, parse_config
from blendsearch.runs.config.method_registry import list_methods
from blendsearch.runs.config.schema import load_config_class

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts), *sorted(ROOT.glob("*.md"))]

sys.path.insert(0, str(DOCS))
import generated  # noqa: E402


def blocks(kind: str, page: Path | None = None) -> list[tuple[Path, str]]:
    """List the code blocks of a kind, of one page or of all."""
    found = re.compile(rf"^```{kind}\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return [(path, code) for path in PAGES if page in (None, path) for code in found.findall(path.read_text("utf-8"))]


def fields(section: type[BaseModel], path: str = "") -> Iterator[str]:
    for name, facts in section.model_fields.items():
        inner = [
            item
            for item in (facts.annotation, *getattr(facts.annotation, "__args__", ()))
            if isinstance(item, type) and issubclass(item, BaseModel)
        ]
        yield from fields(inner[0], f"{path}{name}.") if inner else [f"{path}{name}"]


def test_every_field_of_the_config_is_in_the_reference() -> None:
    page = generated.fill_page((DOCS / "reference" / "config.md").read_text("utf-8"))
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE))
    for field in fields(load_config_class()):
        section, _, name = field.rpartition(".")
        title = next(title for title in sections if f"`{section}`" in title or (not section and title == "At the top"))
        assert re.search(rf"^`{name}`{{#[\w-]+}}\n: \S", sections[title], re.MULTILINE), field


def test_every_criterion_and_verb_is_in_the_reference() -> None:
    load_pool()
    page = generated.fill_page((DOCS / "reference" / "criteria.md").read_text("utf-8"))
    own = [item for item in CRITERIA.values() if item.score.__module__.startswith("blendsearch.")]
    assert len(own) > 30
    assert not [item.name for item in own if f"| `{item.name}`{{#" not in page]
    page = generated.fill_page((DOCS / "reference" / "cli.md").read_text("utf-8"))
    verbs = next(action.choices for action in make_parser()._actions if isinstance(action.choices, dict))
    assert "search" in verbs and not [verb for verb in verbs if f"## `{verb}`" not in page]


def test_every_public_name_is_in_the_python_reference() -> None:
    page = (DOCS / "reference" / "python.md").read_text("utf-8")
    named = set(re.findall(r"\w+", page))
    assert not set(blendsearch.__all__) - named


def test_every_documented_object_exists() -> None:
    pages = "".join(page.read_text("utf-8") for page in PAGES)
    documented = re.findall(r"\.\. auto(function|class|module):: ([\w.]+)", pages)
    assert len(documented) > 15
    for kind, path in documented:
        module, _, name = (path, "", "__doc__") if kind == "module" else path.rpartition(".")
        assert hasattr(importlib.import_module(module), name), path


def test_every_guarantee_names_test_files_that_exist() -> None:
    page = (DOCS / "guarantees.md").read_text("utf-8")
    promises = re.findall(r"^\| (?!promise|---)(.*) \| (.*) \|$", page, re.MULTILINE)
    files = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert len(promises) > 30
    for promise, proofs in promises:
        named = set(re.findall(r"`(test_\w+\.py)`", proofs))
        assert named and named <= files, promise


PATH = re.compile(r"(?:[\w.*-]+/)+[\w.*-]*|[\w*-]+\.(?:py|md|yaml|toml)|\.?[\w-]+/")
"""Text in backticks that names a file or a folder."""


def find_missing_paths(page: str) -> list[str]:
    """List the paths in backticks that exist neither here, nor in the package, nor in a folder of their paragraph.

    A paragraph such as ``**`runs/`** holds `store.py` `` names its folder once.
    """
    missing = []
    for paragraph in page.split("\n\n"):
        paths = [path for path in re.findall(r"`([^`\n]+)`", paragraph) if PATH.fullmatch(path)]
        folders = [place / path for path in paths if path.endswith("/") for place in (ROOT, ROOT / "blendsearch")]
        for path in paths:
            found = [*ROOT.glob(path), *(ROOT / "blendsearch").glob(path)]
            missing += [] if found or any([*folder.rglob(path)] for folder in folders) else [path]
    return missing


def test_every_path_in_the_pages_for_contributors_exists() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    run_directory = re.search(r"^## A run directory\n.*?(?=^## )", page, re.DOTALL | re.MULTILINE)
    assert run_directory
    page = page.replace(run_directory.group(), "")
    contributing = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    assert find_missing_paths(page) == []
    assert find_missing_paths(contributing) == []
    assert find_missing_paths("**`runs/`** holds `store.py` and `runs/gone.py`") == ["runs/gone.py"]


def test_the_picture_of_the_architecture_is_complete() -> None:
    (picture,) = (code for _, code in blocks("text", ROOT / "ARCHITECTURE.md"))
    drawn, folder = set(), Path()
    for line in picture.splitlines()[1:]:
        indent, name = re.match(r"( +)(\S+)", line).groups()  # type: ignore[union-attr]
        folder = Path() if len(indent) == 2 else Path(folder.parts[0])
        folder /= name
        drawn.add(folder.as_posix())
        assert (ROOT / "blendsearch" / folder).exists(), folder
    layers = {path.parent.name for path in (ROOT / "blendsearch").glob("*/__init__.py")}
    assert layers <= drawn


def test_every_term_of_the_glossary_is_defined_once() -> None:
    terms = re.findall(r"^## (.*)$", (DOCS / "glossary.md").read_text("utf-8"), re.MULTILINE)
    assert terms == sorted(set(terms), key=str.lower)


def test_external_resources_of_a_page_are_found(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="the group docs is not installed")
    from offline import list_external_resources

    (tmp_path / "page.html").write_text('<a href="https://a.example/">a</a><img src="here.png"><link href="style.css">')
    (tmp_path / "style.css").write_text(
        "a { background: url('data:image/svg+xml,<svg xmlns=\"http://www.w3.org/2000/svg\">') }"
    )
    assert list_external_resources(tmp_path) == []
    (tmp_path / "other.html").write_text('<script async src="https://b.example/x.js"></script>')
    (tmp_path / "other.css").write_text("@import 'https://c.example/font.css'; a { b: url(//d.example/e.woff) }")
    assert [line.split("://")[-1].removeprefix("other.css: //") for line in list_external_resources(tmp_path)] == [
        "c.example/font.css",
        "d.example/e.woff",
        "b.example/x.js",
    ]


def test_every_method_is_documented() -> None:
    page = (DOCS / "howto" / "neighbours.md").read_text("utf-8")
    assert not [spec.name for spec in list_methods() if f"| `{spec.name}` |" not in page]
    set_by = dict(re.findall(r"### `method: (.*?)`\n\n```yaml\n(.*?)```", generated.describe_methods(), re.DOTALL))
    assert {name: yaml.safe_load(text) for name, text in set_by.items()} == {
        spec.name: yaml.safe_load(yaml.safe_dump(dict(spec.defaults))) for spec in list_methods() if spec.defaults
    }


def test_an_undescribed_field_ends_the_build() -> None:
    section = {"properties": {"novel": {"type": "integer", "default": 1}}}
    assert "whole number; default `1`" in generated._format_section("`here`", "here", section, {"novel": "New."})
    with pytest.raises(generated.DescriptionError, match=r"here\.novel"):
        generated._format_section("`here`", "here", section, {})
    with pytest.raises(generated.DescriptionError, match=r"here\.gone"):
        generated._format_section("`here`", "here", section, {"novel": "New.", "gone": "Old."})


@pytest.mark.parametrize(("page", "code"), [pytest.param(page, code, id=page.stem) for page, code in blocks("yaml")])
def test_every_config_is_valid(page: Path, code: str) -> None:
    parse_config(load_config(None).model_dump() | yaml.safe_load(code), page.name)


def test_every_python_block_compiles() -> None:
    found = blocks("python")
    assert len(found) > 8
    for page, code in found:
        compile(code, page.name, "exec")


def test_the_user_defined_criteria_are_scored(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = DOCS / "howto" / "own-criterion.md"
    (tmp_path / "own_ones.py").write_text("\n".join(code for _, code in blocks("python", page)).replace("mine.py", ""))
    (_, config), *_ = blocks("yaml", page)
    tree = yaml.safe_load(config_file.read_text()) | yaml.safe_load(config)
    tree["criteria"] |= {"modules": ["own_ones"], "images": 64}
    tree["criteria"]["pool"].append("mean_response")
    config_file.write_text(yaml.safe_dump(tree))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    load_pool()
    pool = {name: item for name, item in CRITERIA.items() if item.score.__module__.startswith("blendsearch.")}
    monkeypatch.setattr("blendsearch.criteria.registry.CRITERIA", pool)  # test_readme registers one of the same name
    main(["criteria", str(config_file), "--map"])
    output = capsys.readouterr().out
    assert "6 criteria, clustered" in output and "largest_weight" in output and (tmp_path / "criteria-map.png").exists()


def test_the_example_of_another_task_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    (_, code), *_ = blocks("python", DOCS / "howto" / "own-task.md")
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))
    images = torch.randn(80, 1, 8, 8)
    given: dict[str, Any] = {
        "model": model,
        "images": images[:60],
        "depths": images[:60].roll(1, 2),
        "val_images": images[60:],
        "val_depths": images[60:].roll(1, 2),
    }
    quick = '"runs": "here", "evaluations": 8, "criteria": ["l1", "taylor_gate"], "device": "cpu", "progress": False'
    monkeypatch.chdir(tmp_path)
    exec(code.replace("budget=bs.macs(0.5)", f"budget=bs.macs(0.5), **{{{quick}}}"), given)
    best = given["run"].best()
    assert best.macs_ratio <= 0.5 and best.further["worst"] >= best.val_loss > 0
