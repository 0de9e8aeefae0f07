"""Runs, networks and output that exist: what an older blendsearch wrote is read, resumed and printed as before.

The golden files are in ``tests/golden``; its make.py says how they are made. A failure here means that existing runs
break, or programs that read the output.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from golden import cases, driver
from golden.compare import TOLERANCE, describe_database, describe_folder, differences

KILLED = [item for item in cases.GOLDEN_RUNS if item.kill]


def expected(name: str) -> Any:
    """The recorded output of one file."""
    return json.loads((cases.EXPECTED / f"{name}.json").read_text(encoding="utf-8"))


def check(found: Any, name: str, tolerance: float = 0.0) -> None:
    """`found`, as JSON holds it, is what the file records."""
    wrong = list(differences(json.loads(json.dumps(found)), expected(name), tolerance))
    assert not wrong, "\n".join(wrong[:20])


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the golden runs, for commands that only read them."""
    folder = tmp_path_factory.mktemp("golden")
    driver.copy_runs(folder)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the golden runs and the trained network in it."""
    driver.copy_runs(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", cases.reading_commands())
def test_stored_runs_are_shown_as_before(name: str, unchanged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(unchanged)
    commands = cases.reading_commands()[name]
    check({" ".join(words): driver.read(*words) for words in commands}, name)


def test_a_process_prints_what_is_printed_here(unchanged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(unchanged)
    assert driver.run_apart("front", "single", "--json") == driver.run_here("front", "single", "--json")


def test_the_api_answers_as_before(unchanged: Path) -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    with driver.serve(unchanged / "runs") as url:
        check({path: driver.read_api(url, path) for path in cases.REQUESTS}, "api")


@pytest.mark.parametrize("command", cases.FRESH_COMMANDS, ids=lambda item: item.name)
def test_new_results_have_the_form_and_numbers_of_before(command: cases.FreshCommand, here: Path) -> None:
    check(driver.compute(command), f"new-{command.name}", TOLERANCE)


@pytest.mark.parametrize("item", KILLED, ids=lambda item: item.name)
def test_an_interrupted_run_resumes_to_the_same_end(item: cases.GoldenRun, here: Path) -> None:
    before = evaluations(here, item.name)
    check(driver.resume(item), f"resume-{item.name}", TOLERANCE)
    after = evaluations(here, item.name)
    assert all(row in after for row in before) and len(after) > len(before)


@pytest.mark.parametrize("other", [False, True], ids=["this code", "other code"])
def test_an_interrupted_run_is_resumed_or_refused_in_one_line(other: bool, here: Path) -> None:
    name = "killed-cma"
    path = here / "runs" / name
    if other:
        pretend_other_code(path)
    before = describe_folder(path)
    ended = (driver.run_here if other else driver.run_apart)("resume", name, "--json")
    if other or ended.code:
        assert ended.code == 2 and len(ended.err.splitlines()) == 1 and "--accept code" in ended.err
        assert describe_folder(path) == before
        ended = driver.run_here("resume", name, "--accept", "code,versions,device", "--json")
    known = expected(f"resume-{name}")["printed"][-1]
    assert not list(differences(ended.lines()[-1], known, TOLERANCE))


def test_an_exported_network_is_loaded() -> None:
    import blendsearch

    described = json.loads((cases.EXPORTED / "network.json").read_text(encoding="utf-8"))
    module = blendsearch.load(cases.EXPORTED)
    assert sum(item.numel() for item in module.parameters()) == described["params"]


def evaluations(folder: Path, name: str) -> list[dict[str, Any]]:
    """The stored evaluations of a run."""
    rows: list[dict[str, Any]] = describe_database(folder / "runs" / name / "run.sqlite")["evaluations"]["rows"]
    return rows


def pretend_other_code(path: Path) -> None:
    """Make a run state that it was begun by other code than there ever was."""
    facts = json.loads((path / "run.json").read_text(encoding="utf-8"))
    facts["provenance"]["code"] = {"code": "0" * 64}
    (path / "run.json").write_text(json.dumps(facts), encoding="utf-8")
