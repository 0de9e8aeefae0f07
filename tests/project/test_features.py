"""The table of features: every cell has a verdict, and what the column of blendsearch names exists."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import blendsearch
from blendsearch.cli.help import VerbParser
from blendsearch.cli.parser import make_parser
from blendsearch.runs.config.schema import load_config_class

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "features.md"
PARSER = make_parser()
VERBS: dict[str, VerbParser] = next(
    action.choices
    for action in PARSER._actions
    if isinstance(action.choices, dict)  # type: ignore[misc]
)
VERDICTS = re.compile(r"(yes|in part|no|n/a|not checked)(: .+)?")
COLUMNS = [
    "feature",
    "blendsearch",
    "Optuna, Dashboard",
    "timm",
    "Lightning",
    "Ultralytics",
    "Torch-Pruning",
    "Ray CLI",
]
OWN = ("evaluate",)
"""Names of functions that a user defines."""


def list_rows() -> Iterator[list[str]]:
    for line in PAGE.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and cells[0] not in ("feature", "---"):
            yield cells


ROWS = list(list_rows())


def test_every_row_has_a_verdict_in_every_column_and_blendsearch_misses_nothing() -> None:
    text = PAGE.read_text("utf-8")
    heads = [line for line in text.splitlines() if line.startswith("| feature")]
    assert set(heads) == {f"| {' | '.join(COLUMNS)} |"} and len(heads) == text.count("\n## ") == 5
    assert len(ROWS) > 40 and len({row[0] for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert len(row) == len(COLUMNS), row[0]
        assert all(VERDICTS.fullmatch(cell) for cell in row[1:]), row
        assert row[1].startswith(("yes: ", "in part: ")), f"blendsearch misses: {row[0]}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_what_the_column_of_blendsearch_names_exists(row: list[str]) -> None:
    for target in re.findall(r"\]\(([^)#]+)", row[1]):
        assert (PAGE.parent / target).exists(), target
    names = re.findall(r"`([^`]+)`", row[1])
    assert names or "](" in row[1] or row[1].startswith("in part: ")
    for name in names:
        check_name(name)


def check_name(name: str) -> None:
    """Check that a verb, an option, an extra, a field, a variable, a method or a file exists."""
    verb, *arguments = shlex.split(name)
    if verb in VERBS:
        options = {word.partition("=")[0] for word in arguments if word.startswith("-")}
        assert options <= VERBS[verb]._option_string_actions.keys(), name
        if arguments and verb not in ("criteria", "tag", "report", "show", "front"):
            PARSER.parse_args(
                [verb, *arguments, *(["latest"] if verb == "export" and "latest" not in arguments else [])]
            )
    elif name.startswith("--"):
        assert name in PARSER._option_string_actions, name
    elif extra := re.fullmatch(r"blendsearch\[(\w+)\]", name):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
        assert extra.group(1) in project["optional-dependencies"], name
    elif method := re.fullmatch(r"run\.(\w+)\(\)", name):
        assert hasattr(blendsearch.SearchRun, method.group(1)), name
    elif name.isupper():
        assert any(name in path.read_text("utf-8") for path in (ROOT / "blendsearch").rglob("*.py")), name
    elif "/" in name:
        assert (ROOT / name).exists(), name
    elif "." in name:
        check_field(name)
    else:
        assert name in OWN or name in ("hf upload", "logging"), name


def check_field(name: str) -> None:
    section = load_config_class()
    *sections, field = name.split(".")
    for part in sections:
        section = section.model_fields[part].annotation  # type: ignore[assignment]
    assert field in section.model_fields, name


def test_names_that_do_not_exist_are_found() -> None:
    for name in ("serch", "front --colour", "--colour", "blendsearch[colour]", "run.colour()", "BLENDSEARCH_COLOUR"):
        with pytest.raises(AssertionError):
            check_name(name)
    with pytest.raises(AssertionError):
        check_name("budget.measured.colour")
