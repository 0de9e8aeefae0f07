"""Every command in the README and on the pages of the documentation: it parses, or is named here with the reason."""

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from blendsearch.cli.help import VerbParser
from blendsearch.cli.parser import make_parser
from blendsearch.runs.config.loading import load_config

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts), *sorted(ROOT.glob("*.md"))]
PARSER = make_parser()
VERBS: dict[str, VerbParser] = next(
    action.choices
    for action in PARSER._actions
    if isinstance(action.choices, dict)  # type: ignore[misc]
)

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`((?:uv run (?:--\S+ )*)?blendsearch [^`]+)`")
SEPARATORS = {"&&", "|", ";", "||"}
NOT_RUN = {
    "docker": "needs a daemon; test_docker.py parses the files, docker/rehearse.py runs them without one",
    "pip": "installs packages; test_packaging.py installs the wheel",
    "uv": "installs packages, or runs the tests themselves",
    "source": "activates an environment",
    "pre-commit": "changes the user's clone",
    "curl": "asks a running server; test_service.py sends the same requests",
    "jq": "reads the JSON of the command before it, whose keys the golden tests compare",
    "head": "reads the text of the command before it",
}
"""First words of commands that no test runs, with the reason."""


def list_commands(page: Path) -> Iterator[list[str]]:
    """List the simple commands in the shell blocks of a page, as words."""
    for kind, code in BLOCK.findall(page.read_text("utf-8")):
        lines = code.replace("\\\n", " ").splitlines()
        if kind == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        for line in lines if kind in ("sh", "console") else ():
            yield from split_command(line)


def split_command(line: str) -> Iterator[list[str]]:
    words: list[str] = []
    for word in [*shlex.split(line, comments=True), ";"]:
        if word in SEPARATORS:
            if words:
                yield words
            words = []
        else:
            words.append(word)


def find_arguments(words: list[str]) -> list[str] | None:
    """Return the words after blendsearch; None for another command."""
    if "blendsearch" not in words or words[0] in ("pip", "docker", "cp", "git"):
        return None
    return words[words.index("blendsearch") + 1 :]


def list_inline_commands(page: Path) -> Iterator[list[str]]:
    """List the arguments of blendsearch in the text of a page, which may leave some out."""
    for text in INLINE.findall(BLOCK.sub("", page.read_text("utf-8"))):
        words = next(split_command(text.replace("\\|", "|")))
        if words[words.index("blendsearch") + 1] != "VERB":
            yield words[words.index("blendsearch") + 1 :]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_of_a_page_is_valid(page: Path) -> None:
    for words in list_commands(page):
        arguments = find_arguments(words)
        if arguments is None:
            check_other_command(words)
            continue
        if arguments == ["--version"]:
            continue
        found = parse(arguments)
        if found.verb.__name__ == "search" and found.config is None:
            load_config(None, found.set)
    for verb, *arguments in list_inline_commands(page):
        options = {word.partition("=")[0] for word in arguments if word.startswith("-")}
        assert verb in VERBS and options <= VERBS[verb]._option_string_actions.keys(), (verb, arguments)


def parse(arguments: list[str]) -> argparse.Namespace:
    try:
        return PARSER.parse_args(arguments)
    except SystemExit as ended:
        raise AssertionError(f"not accepted: blendsearch {shlex.join(arguments)}") from ended


def strip_uv(words: list[str]) -> list[str]:
    """Return the command that ``uv run`` starts, or `words` themselves."""
    rest = words[2:] if words[:2] == ["uv", "run"] else []
    while rest and rest[0].startswith("--"):
        rest = rest[2:] if rest[0] in ("--extra", "--group") else rest[1:]
    return rest or words


def check_other_command(words: list[str]) -> None:
    """Check that what a command names exists, or that the command is one that no test runs."""
    words = [word for word in words if not re.fullmatch(r"[A-Z_]+=.*", word)]
    words = strip_uv(words)
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        assert set(words[1:]) <= set(targets), words
    elif words[0] == "python" and words[1] == "-c":
        compile(words[2], "page", "exec")
    elif words[0] in ("python", "pytest", "ruff", "mypy", "lint-imports") or words[0].startswith("experiments/"):
        named = [word for word in words if re.search(r"\.(py|sh)$", word)]
        assert all((ROOT / word).exists() for word in named), words
    else:
        assert words[0] in NOT_RUN, f"{words}: a command that is neither checked nor named in NOT_RUN"


def test_commands_are_found_on_the_pages() -> None:
    found = [words for page in PAGES for words in list_commands(page)]
    assert sum(find_arguments(words) is not None for words in found) > 40
    assert sum(1 for page in PAGES for _ in list_inline_commands(page)) > 10
    with pytest.raises(AssertionError, match="neither checked nor named"):
        check_other_command(["wget", "example"])
