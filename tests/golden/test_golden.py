"""Compatibility: runs written by an older blendsearch are read and resumed, and the JSON output keeps its form.

make.py documents how the golden files are made. A failure means that existing runs break, or programs that read the
output.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from golden import cases, driver
from golden.compare import TOLERANCE, describe_database, describe_folder, find_differences

KILLED = [item for item in cases.GOLDEN_RUNS if item.kill and item.name not in cases.REMOVED]


def load_expected(name: str) -> Any:
    """Read the recorded output of one file."""
    return json.loads((cases.EXPECTED / f"{name}.json").read_text(encoding="utf-8"))


def check(found: Any, name: str, tolerance: float = 0.0) -> None:
    """Assert that `found`, after a round trip through JSON, is the recorded output."""
    wrong = list(find_differences(json.loads(json.dumps(found)), load_expected(name), tolerance))
    assert not wrong, "\n".join(wrong[:20])


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide a folder with the golden runs, for commands that only read them."""
    folder = tmp_path_factory.mktemp("golden")
    driver.copy_runs(folder)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide a working directory with the golden runs and the trained network in it."""
    driver.copy_runs(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", cases.list_reading_commands())
def test_stored_runs_are_shown_as_before(name: str, unchanged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(unchanged)
    commands = cases.list_reading_commands()[name]
    check({" ".join(words): driver.read(*words) for words in commands}, name)


def test_a_separate_process_prints_the_same(unchanged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(unchanged)
    assert driver.run_apart("front", "single", "--json") == driver.run_here("front", "single", "--json")


def test_the_api_answers_as_before(unchanged: Path) -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    with driver.serve(unchanged / "runs") as url:
        found = {path: driver.read_api(url, path) for path in cases.REQUESTS}
    check(found, "api")


@pytest.mark.parametrize("command", cases.FRESH_COMMANDS, ids=lambda item: item.name)
def test_new_results_keep_their_form_and_numbers(command: cases.FreshCommand, here: Path) -> None:
    check(driver.compute(command), f"new-{command.name}", TOLERANCE)


@pytest.mark.parametrize("item", KILLED, ids=lambda item: item.name)
def test_an_interrupted_run_resumes_to_the_same_end(item: cases.GoldenRun, here: Path) -> None:
    before = read_evaluations(here, item.name)
    check(driver.resume(item), f"resume-{item.name}", TOLERANCE)
    after = read_evaluations(here, item.name)
    assert all(row in after for row in before) and len(after) > len(before)


@pytest.mark.parametrize("name", sorted(cases.REMOVED))
def test_an_interrupted_run_of_a_removed_optimizer_is_refused(name: str, here: Path) -> None:
    before = describe_folder(here / "runs" / name)
    ended = driver.run_here("resume", name, "--accept", "code,versions,device")
    assert ended.code == 2 and "was removed in 0.2: use cma" in ended.err.splitlines()[-1]
    assert describe_folder(here / "runs" / name) == before


@pytest.mark.parametrize("other", [False, True], ids=["this code", "other code"])
def test_an_interrupted_run_is_resumed_or_refused_in_one_line(other: bool, here: Path) -> None:
    name = "killed-cma"
    path = here / "runs" / name
    if other:
        pretend_other_code(path)
    before = describe_folder(path)
    ended = driver.run_here("resume", name, "--json")
    if other or ended.code:
        assert ended.code == 2 and len(ended.err.splitlines()) == 1 and "--accept code" in ended.err
        assert describe_folder(path) == before
        ended = driver.run_here("resume", name, "--accept", "code,versions,device", "--json")
    known = load_expected(f"resume-{name}")["printed"][-1]
    assert not list(find_differences(ended.lines()[-1], known, TOLERANCE))


def test_an_exported_network_is_loaded() -> None:
    import blendsearch

    described = json.loads((cases.EXPORTED / "network.json").read_text(encoding="utf-8"))
    module = blendsearch.load(cases.EXPORTED)
    assert sum(item.numel() for item in module.parameters()) == described["params"]


def read_evaluations(folder: Path, name: str) -> list[dict[str, Any]]:
    """Read the stored evaluations of a run."""
    rows: list[dict[str, Any]] = describe_database(folder / "runs" / name / "run.sqlite")["evaluations"]["rows"]
    return rows


def pretend_other_code(path: Path) -> None:
    """Change the stored code digest of a run, as if other code had begun it."""
    facts = json.loads((path / "run.json").read_text(encoding="utf-8"))
    facts["provenance"]["code"] = {"code": "0" * 64}
    (path / "run.json").write_text(json.dumps(facts), encoding="utf-8")
