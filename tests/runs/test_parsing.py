"""JSON and YAML from elsewhere: what is deep, huge, repeated or endless is refused in one line."""

import json
import os
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blendsearch.cli.main import main
from blendsearch.errors import RunError
from blendsearch.runs.parsing import MAX_DEPTH, ParsingError, parse_json, read_json
from blendsearch.runs.run import open_run
from blendsearch.runs.yaml_parsing import parse_yaml

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 2000))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested too deep"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested too deep"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' appears twice"),
        ("1" * 5000, "digits"),
        ("NaN", "no JSON number"),
        ("-Infinity", "no JSON number"),
        ("[1e999]", "range of numbers"),
        ("{'a': 1}", "property name"),
        ("", "Expecting value"),
    ],
)
def test_json_is_plain_and_shallow(text: str, message: str) -> None:
    with pytest.raises(ParsingError, match=message) as raised:
        parse_json(text, allow_nan=False)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "more than 100,000 values"),
        (CHAIN, "nested more than"),
        ("a: &a [*a]", "no complete value"),
        ("a: &a {b: *a}", "no complete value"),
        ("a: *b", "no complete value"),
        ("[" * 100_000, "nested more than"),
        ("- " * 1000 + "1", "nested more than"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested more than"),
        ("a: " + "1" * 5000, "digits"),
        ("a: 2024-13-45", "month"),
        ("a: !!bool maybe", "no value"),
        ("a: !!int ''", "no value"),
        ("a: !!timestamp x", "no value"),
        ("? {a: 1}\n: 2", "unhashable"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("a: [", "expected"),
        ("\0", "special characters"),
    ],
)
def test_yaml_is_small_also_when_its_aliases_are_expanded(text: str, message: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ParsingError, match=message) as raised:
            parse_yaml(text)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert "\n" not in str(raised.value)


def test_aliases_of_a_reasonable_size_are_accepted_where_asked_for() -> None:
    text = "a: &a {b: 1}\nc: [*a, *a]\nd:\n  <<: *a\n  e: 2"
    assert parse_yaml(text) == {"a": {"b": 1}, "c": [{"b": 1}, {"b": 1}], "d": {"b": 1, "e": 2}}
    with pytest.raises(ParsingError, match="write it out"):
        parse_yaml(text, aliases=False)
    assert parse_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH)


@given(text=st.text(alphabet="ab:&*[]{}!<>|-?,#%@'\"\n\t 019.~=intboolfsp", max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for parse in (parse_yaml, parse_json):
        with suppress(ParsingError):
            parse(text)


def test_files_that_are_no_json_are_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b'{"a": "\xff"}')
    (tmp_path / "large").write_text(json.dumps("x" * 1000))
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("binary", "UTF-8"), ("large", "larger than 999 bytes"), ("pipe", "regular file")):
        with pytest.raises(ParsingError, match=message):
            read_json(tmp_path / name, max_bytes=999)
    for name in ("", "absent"):
        with pytest.raises((FileNotFoundError, IsADirectoryError)):
            read_json(tmp_path / name)


def test_a_run_of_deep_json_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "run.json").write_text("[" * 100_000)
    with pytest.raises(RunError, match="nested too deep"):
        open_run(tmp_path, "deep")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "more than 100,000 values"),
        ("[" * 100_000, "nested more than"),
        ("model: &a {b: *a}", "no complete value"),
        ("seed: " + "1" * 5000, "digits"),
        ("#" * 2**20 + "#", "larger than"),
        ("x: !!bool maybe", "no value"),
    ],
)
def test_bombs_as_configs_cost_one_line(text: str, message: str, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(SystemExit) as ended:
        main(["search", str(tmp_path / "config.yaml"), "--runs", str(tmp_path / "runs")])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and message in said and said.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "override",
    [
        "search.evaluations=" + "9" * 5000,
        "search.evaluations=" + "9" * 30,
        "search.population=1000000000",
        "engine.workers=1000000000",
        "data.image_size=1000000000",
        "model.arguments." + "a." * 900 + "a=1",
        "model.arguments=" + "[" * 1000,
        "seed=*a",
        "x" * 5000,
        "x" * 5000 + "=1",
        "seed=" + "x" * 5000,
    ],
)
def test_overrides_without_bounds_cost_one_line(override: str, tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["search", "--runs", str(tmp_path / "runs"), "--set", override])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1 and len(said) < 2000
