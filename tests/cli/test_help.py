"""The help of the command line: groups, examples that parse, colours on a terminal only; one grammar for all verbs."""

import argparse
import json
import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from blendsearch.cli.examples import EXAMPLES
from blendsearch.cli.help import VerbParser
from blendsearch.cli.main import main
from blendsearch.cli.parser import VERBS, make_parser

VERB_PARSERS: dict[str, VerbParser] = next(
    dict(action.choices) for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction)
)
EXAMPLE_COMMANDS = [command for examples in EXAMPLES.values() for command, _ in examples]
HELP = [sys.executable, "-m", "blendsearch"]
WRITERS = {"init", "schema", "front", "report", "export", "criteria"}
"""Verbs that write a file or a folder that the user names."""
ON_A_RUN = {"status", "front", "show", "report", "resume", "fork", "compare", "export"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decide about colours and width as a user's plain environment does."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")


def get_options(name: str, *, hidden: bool = False) -> set[str]:
    actions = VERB_PARSERS[name]._actions
    return {option for item in actions if hidden is (item.help is argparse.SUPPRESS) for option in item.option_strings}


def read_from_terminal(words: list[str], **variables: str) -> str:
    """Run a command on a terminal of 80 columns, and return what it prints there."""
    outer, inner = pty.openpty()
    variables = {**os.environ, "TERM": "xterm-256color", **variables}
    with subprocess.Popen(words, stdout=inner, stderr=inner, stdin=inner, env=variables) as process:
        os.close(inner)
        parts = []
        while True:
            try:
                part = os.read(outer, 65536)
            except OSError:  # the other end is closed
                part = b""
            if not part:
                break
            parts.append(part)
    os.close(outer)
    assert process.returncode == 0, parts
    return b"".join(parts).decode()


def test_every_verb_is_in_one_group_and_has_a_purpose(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    shown = capsys.readouterr().out
    for title in VERBS:
        assert f"\n{title}:\n" in shown
    for name, made in VERB_PARSERS.items():
        assert len(re.findall(rf"^  {name} ", shown, re.MULTILINE)) == 1, name
        assert made.description and all(item.help for item in made._actions), name


@pytest.mark.parametrize("name", VERB_PARSERS)
def test_the_help_of_a_verb_ends_with_its_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([name, "--help"])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    before, _, examples = shown.partition("\nexamples:\n")
    assert before.startswith(f"usage: blendsearch {name} ")
    for command, purpose in EXAMPLES[name]:
        assert command.startswith(f"blendsearch {name}") and command in examples
        assert purpose in " ".join(examples.split())


@pytest.mark.parametrize("command", EXAMPLE_COMMANDS)
def test_an_example_is_valid(command: str) -> None:
    words = shlex.split(command)
    assert callable(make_parser().parse_args(words[1:]).verb)


@pytest.mark.parametrize("words", [["--help"], ["export", "--help"]])
def test_help_is_coloured_on_a_terminal_only(words: list[str]) -> None:
    pytest.importorskip("rich_argparse")
    coloured = read_from_terminal([*HELP, *words])
    plain = read_from_terminal([*HELP, *words], NO_COLOR="1")
    piped = subprocess.run([*HELP, *words], capture_output=True, text=True, check=True).stdout
    assert "\x1b[" in coloured and "\x1b" not in plain + piped
    assert "".join(re.sub(r"\x1b\[[0-9;]*m", "", coloured).split()) == "".join(piped.split())
    assert plain.split() == piped.split()


@pytest.mark.parametrize("words", [[], ["front", "absent"], ["--help"], ["export", "--nonsense"]])
def test_rich_is_not_imported_where_no_coloured_help_is_printed(words: list[str], tmp_path: Path) -> None:
    lines = (
        "import sys, blendsearch.cli.main as c",
        f"try: c.main({words!r})",
        "except SystemExit: pass",
        "found = {'rich', 'rich_argparse', 'matplotlib', 'torch', 'ray'} & set(sys.modules)",
        "assert not found, found",
    )
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, capture_output=True, cwd=tmp_path)


@pytest.mark.parametrize("name", VERB_PARSERS)
def test_the_verbs_have_one_grammar(name: str) -> None:
    shown, arguments = get_options(name), [item.metavar for item in VERB_PARSERS[name]._get_positional_actions()]
    assert {"--runs", "--verbose", "--help"} <= shown
    assert "--json" in shown or name in ("schema", "completion"), "what is printed is for programs, or a script"
    assert ("--out" in shown) == (name in WRITERS)
    assert not {"--to", "--plot", "--pick"} & shown
    assert (arguments[:1] == ["RUN"]) == (name in {*ON_A_RUN, "delete", "tag"})
    assert arguments == ["RUN", "PICK"] or name not in ("show", "export")


@pytest.mark.parametrize(
    ("words", "now"),
    [
        ("export one --pick knee --to small", "export one knee --out small"),
        ("show one --pick 7", "show one 7"),
        ("front one --plot", "front one --out"),
        ("front one --plot front.svg", "front one --out front.svg"),
        ("report one --to one.html", "report one --out one.html"),
        ("criteria --map map.svg", "criteria --out map.svg"),
    ],
)
def test_earlier_spellings_are_accepted(words: str, now: str) -> None:
    from blendsearch.cli.terminal import read_pick

    before, after = (make_parser().parse_args(text.split()) for text in (words, now))
    if hasattr(before, "pick"):
        assert read_pick(before) == read_pick(after)
        before.pick = before.network = after.pick = after.network = None
    assert vars(before) == vars(after)


def test_earlier_spellings_are_not_completed(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in ("bash", "zsh", "fish"):
        main(["completion", shell])
        script = capsys.readouterr().out
        assert not re.search(r"--(to|pick|plot)\b|-l (to|pick|plot)\b", script) and "out" in script


def test_every_object_printed_has_a_schema(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["probe", str(config_file), "--factors", "2", "--rules", "1", "--name", "one", "--json"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(list(line)[:2] == ["event", "schema"] for line in lines) and lines[-1]["event"] == "result"
    main(["inspect", "latest", "--json"])
    assert json.loads(capsys.readouterr().out)["schema"] == 1
    main(["front", "latest", "--out", "front.svg", "--json"])
    assert json.loads(capsys.readouterr().out)["picture"] == "front.svg"
    main(["delete", "latest", "--yes", "--json"])
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "deleted": ["one"]}
