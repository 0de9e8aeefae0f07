"""A method from outside the package: found, searched with, resumed, compared with and reported like a built-in one."""

import importlib.metadata
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from blendsearch.cli.main import main
from blendsearch.errors import ConfigError
from blendsearch.runs.config import method_registry
from blendsearch.runs.config.loading import dump_config, parse_config
from blendsearch.runs.config.method_registry import (
    ENTRY_POINTS,
    get_method,
    list_control_names,
    list_methods,
    load_methods,
    register_method,
    unregister_method,
)
from blendsearch.runs.config.method_spec import MethodSpec
from blendsearch.runs.run import open_run
from blendsearch.testing import check_method

SPEC = '''
from blendsearch.runs.config.method_spec import MethodSpec, Traits
from blendsearch.runs.config.sections import Positive, Section


class ToyConfig(Section):
    """Options of the toy method."""

    draws: Positive = 4


def check(config):
    if config.toy.draws > 100:
        raise ValueError("method toy draws at most 100 at once: lower toy.draws")


SPEC = MethodSpec(
    name="toy",
    summary="Draw at random from a uniform start.",
    implementation="toy_search:Toy",
    traits=Traits(spans=False, transform="never", control="optional"),
    defaults={"search": {"evaluations": 6}},
    options=ToyConfig,
    check=check,
    origins=("toy uniform",),
)
'''

IMPLEMENTATION = '''
import numpy as np

from blendsearch.pipeline.methods.method import Method
from blendsearch.pipeline.optimizers.random_search import RandomSearch
from toy_spec import ToyConfig


class Toy(Method):
    """A random search that starts from one network."""

    def make_optimizer(self, problem):
        rng = np.random.default_rng([problem.config.seed, 2])
        draws = problem.config.get_options(ToyConfig).draws
        return RandomSearch(problem.decoder.space, problem.decoder.decode, draws, rng)

    def make_baselines(self, problem):
        return [("toy uniform", problem.decoder.space.make_equal_blend())]
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package with the entry point of a method."""
    (tmp_path / "toy_spec.py").write_text(SPEC)
    (tmp_path / "toy_search.py").write_text(IMPLEMENTATION)
    monkeypatch.syspath_prepend(tmp_path)
    entry = importlib.metadata.EntryPoint("toy", "toy_spec:SPEC", ENTRY_POINTS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry] if group == ENTRY_POINTS else [])
    monkeypatch.setattr(method_registry, "_loaded_entries", set(method_registry._loaded_entries))
    load_methods.cache_clear()
    yield
    unregister_method("toy")
    for name in ("toy_spec", "toy_search"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("toy")
def test_a_method_from_outside_is_searched_with_resumed_compared_with_and_reported(
    tmp_path: Path, quick: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--runs", str(tmp_path / "runs")]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(quick | {"method": "toy", "search": {"population": 4}, "toy": {"draws": 2}}))
    main(["search", str(path), *where, "--name", "own"])
    main(["resume", "own", *where, "--set", "search.evaluations=9"])
    run = open_run(tmp_path / "runs", "own")
    store = run.open_store(read_only=True)
    rows = store.read_evaluations()
    store.close()
    assert run.config.method == "toy" and len(rows) == 1 + 9
    assert {row.origin for row in rows} == {"dense", "toy uniform", "evolved"}
    main(["report", "own", *where, "--to", str(tmp_path / "own.html")])
    page = (tmp_path / "own.html").read_text(encoding="utf-8")
    assert "toy" in page and "toy uniform" in page

    path.write_text(yaml.safe_dump(quick | {"search": {"evaluations": 16, "population": 8}}))
    main(["search", str(path), *where, "--name", "one"])
    main(["compare", "one", *where, "--controls", "toy", "--seeds", "1"])
    main(["report", "one", *where, "--to", str(tmp_path / "one.html")])
    capsys.readouterr()
    main(["compare", "one", *where, "--controls", "none", "--json"])
    names = [row["name"] for row in json.loads(capsys.readouterr().out)["methods"]]
    assert "toy" in names and "toy uniform" not in names
    assert ">toy<" in (tmp_path / "one.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("toy")
def test_a_method_from_outside_keeps_the_contract(tmp_path: Path, quick: dict[str, Any]) -> None:
    check_method("toy", quick | {"search": {"evaluations": 8, "population": 4}}, tmp_path / "runs", module="toy_spec")


@pytest.mark.usefixtures("toy")
def test_its_section_defaults_and_rules_apply_while_it_is_installed(quick: dict[str, Any]) -> None:
    del quick["search"]
    config: Any = parse_config(quick | {"method": "toy"}, "here")
    assert (config.search.evaluations, config.toy.draws) == (6, 4)
    assert list(config.model_dump())[-3:] == ["tailored", "toy", "seed"]
    assert parse_config(yaml.safe_load(dump_config(config)), "again") == config
    assert "toy" in list_control_names(optional=True)
    for changes, says in (
        ({"toy": {"drawz": 1}}, r"toy\.drawz is not a known field: did you mean draws\?"),
        ({"toy": {"draws": 200}}, r"lower toy\.draws"),
        ({"transform": "depthwise"}, "method toy decomposes no layers"),
        ({"budget": {"macs": [0.3, 0.5]}}, "method toy searches at one budget"),
        ({"search": {"seeds": ["toy"]}}, r"search\.seeds\.0: Input should be"),
        ({"search": {"seeds": ["derived"]}}, r"search\.seeds begin a search"),
    ):
        with pytest.raises(ConfigError, match=says):
            parse_config(quick | {"method": "toy", **changes}, "here")
    unregister_method("toy")
    with pytest.raises(ConfigError, match="method: Input should be 'blended'.*given 'toy'"):
        parse_config(quick | {"method": "toy"}, "here")
    assert "toy" not in parse_config(quick, "here").model_dump()


def test_a_broken_entry_point_is_left_out_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = importlib.metadata.EntryPoint("broken", "no_such_module:SPEC", ENTRY_POINTS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry])
    monkeypatch.setattr(method_registry, "_loaded_entries", set(method_registry._loaded_entries))
    load_methods.cache_clear()
    with pytest.warns(UserWarning, match=r"methods of the entry point 'broken' .* are left out: No module named"):
        names = [spec.name for spec in list_methods()]
    assert "blended" in names


@pytest.mark.parametrize(
    ("name", "says"),
    [("legr", "two methods are called 'legr'"), ("uniform", "cannot name a method"), ("A b", "cannot name a method")],
)
def test_a_name_that_is_taken_or_not_allowed_is_refused(name: str, says: str) -> None:
    list_methods()
    with pytest.raises(ConfigError, match=says):
        register_method(MethodSpec(name=name, summary="Another one.", implementation="somewhere:Else"))


def test_a_method_that_cannot_be_imported_is_refused_in_one_line() -> None:
    register_method(MethodSpec(name="absent", summary="Not there.", implementation="no_such_module:Absent"))
    try:
        with pytest.raises(ConfigError, match="method absent cannot be loaded from no_such_module:Absent"):
            method_registry.load_implementation("absent")
    finally:
        unregister_method("absent")


def test_an_unknown_method_is_named_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="no method is called 'tailord': did you mean 'tailored'"):
        get_method("tailord")
