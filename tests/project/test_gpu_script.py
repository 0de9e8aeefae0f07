"""The script of all GPU checks: a dry run on the CPU at toy size, and its promises about time, errors and restarts."""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fake_device import CARD, use_fake_card

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "experiments" / "gpu" / "all.sh"
PARTS = sorted(path.stem for path in SCRIPT.parent.glob("*.py") if path.stem not in ("harness", "run_all"))


def run_script(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [str(SCRIPT), "--device", "cpu", "--toy", "--out", str(folder), "--work", str(folder / "work"), *words]
    return subprocess.run(command, env=environment, text=True, capture_output=True, timeout=540)


def read_steps(folder: Path, part: str) -> dict[str, Any]:
    steps: dict[str, Any] = json.loads((folder / f"{part}-toy.json").read_text("utf-8"))["steps"]
    return steps


def check_run(folder: Path, parts: list[str], *words: str) -> str:
    """Run the script, check that every step of `parts` has a result, and return its table."""
    done = run_script(folder, *words)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    for part in parts:
        steps = read_steps(folder, part)
        assert steps and all("result" in row for row in steps.values()), (part, steps)
        assert part in done.stdout
    return done.stdout


@pytest.mark.slow
def test_a_dry_run_runs_every_step_of_every_part(tmp_path: Path) -> None:
    assert len(PARTS) == 8
    table = check_run(tmp_path, PARTS)
    assert "paths that agree with the CPU" in table and "reached" in table


def test_a_second_run_continues_and_measures_nothing_again(tmp_path: Path) -> None:
    folder = tmp_path
    check_run(folder, ["data_loading"], "--only", "data_loading")
    path = folder / "data_loading-toy.json"
    stored = json.loads(path.read_text("utf-8"))
    missing = next(iter(stored["steps"]))
    before = {name: row for name, row in stored["steps"].items() if name != missing}
    path.write_text(json.dumps(stored | {"steps": before}), "utf-8")
    done = run_script(folder, "--only", "data_loading")
    assert done.returncode == 0, done.stderr[-2000:]
    after = read_steps(folder, "data_loading")
    assert missing in after and {name: after[name] for name in before} == before
    assert f"data_loading: {missing}" in done.stderr and done.stderr.count("data_loading: ") == 1


def test_a_failed_step_ends_neither_its_part_nor_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    harness, run_all = load_modules(monkeypatch)
    arguments = harness.Arguments(harness.torch.device("cpu"), True, tmp_path, tmp_path, 1.0, False)
    part = harness.Part("part", arguments)

    def measure(part: Any) -> None:
        assert part.step("fails", lambda: 1 / 0) is None
        assert part.step("succeeds", lambda: 3) == 3
        raise ValueError("outside a step")

    part.run(measure)
    stored = json.loads(part.path.read_text("utf-8"))
    assert "ZeroDivisionError" in stored["steps"]["fails"]["error"]
    assert "outside a step" in stored["steps"]["preparation"]["error"]
    assert stored["steps"]["succeeds"]["result"] == 3
    assert "part: fails: ZeroDivisionError" in run_all.make_table({"part": stored})
    again = harness.Part("part", arguments)
    assert again.step("fails", lambda: 4) == 4 and again.step("succeeds", lambda: 5) == 3


def test_steps_are_left_out_when_the_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    harness, _ = load_modules(monkeypatch)
    arguments = harness.Arguments(harness.torch.device("cpu"), True, tmp_path, tmp_path, 0.0, False)
    part = harness.Part("late", arguments)
    assert part.step("one", lambda: time.sleep(60)) is None
    assert part.errors == {"one": harness.OVER_TIME}


def test_a_part_whose_process_dies_or_hangs_is_an_error_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run_all = load_modules(monkeypatch)
    monkeypatch.setattr(run_all, "HERE", tmp_path)
    monkeypatch.setattr(run_all, "GRACE", 1.0)
    (tmp_path / "dies.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    (tmp_path / "hangs.py").write_text("import time; time.sleep(300)")
    parsed = run_all.argparse.Namespace(toy=False, device="cpu", out=tmp_path, work=tmp_path, again=False)
    assert "ended with code -9" in run_all.list_errors(run_all.run_part(parsed, "dies", 1.0))[0]
    assert "stopped after" in run_all.list_errors(run_all.run_part(parsed, "hangs", 0.0))[0]


def test_the_whole_run_has_a_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, run_all = load_modules(monkeypatch)
    monkeypatch.setattr(run_all, "HERE", tmp_path)
    (tmp_path / "hangs.py").write_text("import time; time.sleep(300)")
    parsed = run_all.argparse.Namespace(toy=False, device="cpu", out=tmp_path, work=tmp_path, again=False)
    began = time.monotonic()
    assert "stopped after 1 seconds" in run_all.list_errors(run_all.run_part(parsed, "hangs", 5.0, 1.0))[0]
    assert time.monotonic() - began < 60
    assert sum(run_all.SHARES.values()) == 13.0 and sorted(run_all.SHARES) == PARTS


def test_steps_of_ray_are_left_out_where_it_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    harness, _ = load_modules(monkeypatch)
    monkeypatch.setattr(harness, "has_ray", lambda: False)
    part = harness.Part("part", harness.Arguments(harness.torch.device("cpu"), True, tmp_path, tmp_path, 1.0, False))
    assert part.step("plain", lambda: 1, needs_ray=False) == 1 and part.step("ray", lambda: 2, needs_ray=True) is None
    assert part.errors == {"ray": harness.NO_RAY}


def test_a_missing_card_is_one_line(tmp_path: Path) -> None:
    done = run_script(tmp_path, "--device", "cuda:77")
    assert done.returncode == 1 and "--device cpu --toy" in done.stderr and "Traceback" not in done.stderr


def load_modules(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import harness
    import run_all

    return harness, run_all


@pytest.mark.parametrize(
    "name",
    [
        *("data_loading", "throughput"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("correctness", "training_speed", "several_candidates")
        ),
    ],
)
def test_a_part_runs_on_the_fake_card(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All steps but those with threads and processes, which do not see the fake card."""
    harness, _ = load_modules(monkeypatch)
    with use_fake_card() as card:
        part = harness.Part(name, harness.Arguments(CARD, True, tmp_path, tmp_path, 10.0, False))
        part.run(importlib.import_module(name).measure)
    assert card.checked > 100
    assert [step for step in part.errors if "threads" not in step and "processes" not in step] == [], part.errors
