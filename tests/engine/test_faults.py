"""Dead, hanging or faulty workers and full disks lose no finished evaluation: faults are real, and losses are
counted.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faulty
import pytest
import torch
from evaluations import collect_outcomes, make_evaluator, make_requests
from faulty_engine import HARNESS, faulty_evaluator, slow_evaluator
from run_files import front, longer, rows

from blendsearch.cli.main import main
from blendsearch.engine.base import Engine
from blendsearch.engine.factory import start_engine
from blendsearch.engine.ray_connection import authenticate
from blendsearch.errors import EngineError
from blendsearch.fitness.evaluator import Evaluator
from blendsearch.runs.config.schema import EngineConfig
from blendsearch.runs.worker_logs import WorkerLogs, read_logs

HANGS_AFTER = 10
"""Seconds: on a machine that others use too, the first evaluation of a new worker may take more than five."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAULTS_DIR", str(made))
        yield made


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Engine]:
    authenticate("local")
    import ray

    ray.cloudpickle.register_pickle_by_value(faulty)  # workers do not see the folder of tests
    # room for one more engine of one or two workers
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    config = EngineConfig(ray="local", workers=2, threads=1, retries=1, timeout=HANGS_AFTER)
    started = start_engine(config, faulty_evaluator())
    yield started
    started.close()
    ray.shutdown()


def planned(folder: Path, requests: list, *faults: str) -> None:
    """Plan faults for the first requests; reset the log."""
    (folder / "log").unlink(missing_ok=True)
    plan = {item.digest: fault for item, fault in zip(requests, faults, strict=False)}
    (folder / "plan.json").write_text(json.dumps(plan))


def attempts(folder: Path, digest: str) -> int:
    return sum(count for work, count in faulty.counted(folder, "begin").items() if work.startswith(digest))


def check_good(folder: Path, outcomes: dict[str, Any], requests: list) -> None:
    """Check that these requests were evaluated once, with the same numbers as without faults."""
    direct = make_evaluator()
    for item in requests:
        assert outcomes[item.digest]._replace(seconds=0) == direct.evaluate(item)._replace(seconds=0)
    assert faulty.repeated(folder) == 0


def logged(engine: Engine, path: Path) -> Path:
    engine.start_telemetry("one", WorkerLogs(path))
    return path


def test_faulty_candidates_fail_and_others_succeed(engine: Engine, folder: Path) -> None:
    torch.set_num_threads(1)
    requests = make_requests(6)
    planned(folder, requests, "raise", "nan", "memory")
    logs = logged(engine, folder / "logs")
    outcomes = collect_outcomes(engine, requests)
    raised, nan, memory, *good = requests
    assert "this candidate cannot be evaluated" in outcomes[raised.digest].failure
    assert outcomes[nan.digest].failure == "the loss is nan"
    assert "memory" in outcomes[memory.digest].failure.lower()
    assert [attempts(folder, item.digest) for item in (raised, nan, memory)] == [2, 1, 2]
    said = [item for item in read_logs(logs) if item.get("digest") == raised.digest]
    assert [(item["event"], item["again"]) for item in said] == [("failed", True), ("failed", False)]
    assert all("faulty.py" in item["trace"] and "cannot be evaluated" in item["trace"] for item in said)
    judged = {item["digest"]: item for item in read_logs(logs) if item["event"] == "evaluated"}
    assert set(judged) == {item.digest for item in (nan, *good)} and judged[nan.digest]["loss"] is None
    assert {item["worker"] for item in judged.values()} <= {0, 1}
    check_good(folder, outcomes, good)


def test_dead_workers_are_replaced_and_their_requests_retried(engine: Engine, folder: Path) -> None:
    requests = make_requests(6)
    planned(folder, requests, "die once", "die")
    logs = logged(engine, folder / "died")
    outcomes = collect_outcomes(engine, requests)
    once, always, *good = requests
    assert outcomes[always.digest].failure
    said = [(item["event"], item["again"]) for item in read_logs(logs) if item.get("digest") == always.digest]
    assert said == [("lost", True), ("lost", False)]
    assert any(item["event"] == "started" and item["worker"] > 1 for item in read_logs(logs)), (
        "replaced under a new number"
    )
    assert [attempts(folder, item.digest) for item in (once, always)] == [2, 2]
    check_good(folder, outcomes, [once, *good])


@pytest.mark.slow
def test_a_worker_killed_during_an_evaluation_loses_no_request(engine: Engine, folder: Path) -> None:
    requests = make_requests(4)
    planned(folder, requests, "wait once")

    def kill() -> None:
        for _ in range(1000):
            time.sleep(0.02)
            text = (folder / "log").read_text() if (folder / "log").exists() else ""
            for line in text.splitlines():
                what, process, digest, *_ = line.split(" ")
                if what == "begin" and digest == requests[0].digest:
                    os.kill(int(process), signal.SIGKILL)
                    return

    killer = threading.Thread(target=kill)
    killer.start()
    outcomes = collect_outcomes(engine, requests)
    killer.join()
    assert attempts(folder, requests[0].digest) == 2
    check_good(folder, outcomes, requests)


def test_hanging_evaluations_are_killed_retried_and_then_fail(engine: Engine, folder: Path) -> None:
    requests = make_requests(5)
    planned(folder, requests, "hang once", "hang")
    logs = logged(engine, folder / "hung")
    outcomes = collect_outcomes(engine, requests)
    once, always, *good = requests
    killed = [(item["digest"], item["again"]) for item in read_logs(logs) if item["event"] == "killed"]
    assert [again for digest, again in killed if digest == always.digest] == [True, False]
    assert [again for digest, again in killed if digest == once.digest] == [True]
    assert f"not done after {HANGS_AFTER} s" in outcomes[always.digest].failure
    assert [attempts(folder, item.digest) for item in (once, always)] == [2, 2]
    check_good(folder, outcomes, [once, *good])


@pytest.mark.slow
def test_the_time_limit_does_not_count_the_start_of_new_workers(engine: Engine, folder: Path) -> None:
    requests = make_requests(3)
    planned(folder, requests, "die once", "hang once")
    limit = faulty.START_SECONDS - 2
    other = start_engine(EngineConfig(ray="local", workers=1, threads=1, retries=1, timeout=limit), slow_evaluator())
    logs = logged(other, folder / "slow")
    outcomes = collect_outcomes(other, requests)
    other.close()
    assert not [outcome.failure for outcome in outcomes.values() if outcome.failure]
    events = [(item["event"], item["digest"]) for item in read_logs(logs) if item["event"] in ("lost", "killed")]
    assert events == [("lost", requests[0].digest), ("killed", requests[1].digest)]


@pytest.mark.slow  # test_retries.py tests the rule
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("hang", r"not done after 2 s \(engine.timeout\); raise that limit"),
        ("die", "; check the memory of the nodes"),
    ],
)
def test_a_series_of_lost_workers_stops_the_engine_and_no_candidate_fails(
    fault: str, reason: str, engine: Engine, folder: Path
) -> None:
    requests = make_requests(4)
    planned(folder, requests, *[fault] * 4)
    other = start_engine(EngineConfig(ray="local", workers=1, threads=1, retries=0, timeout=2), faulty_evaluator())
    outcomes = []
    for item in requests:
        other.submit(item)
    with pytest.raises(EngineError, match=reason) as stopped:
        outcomes += other.iter_outcomes()
    other.close()
    assert not outcomes and "\n" not in str(stopped.value)
    assert str(stopped.value).startswith("3 attempts at 3 candidates in a row ended with a killed or dead worker")


def kill_again_and_again(
    config: Path, runs: Path, folder: Path, kills: int, *words: str, by: tuple[signal.Signals, ...] = (signal.SIGKILL,)
) -> tuple[int, int]:
    """Run the search ``killed`` to its end and kill the controller `kills` times; return lost and repeated evaluations.

    It is killed at a random moment after its first evaluation since its start. SIGINT goes to all of its foreground
    processes, as with Ctrl-C.
    """
    rng = random.Random(0)
    (folder / "log").unlink(missing_ok=True)
    (folder / "plan.json").write_text('{"*": "slow"}')
    surroundings = {**os.environ, "FAULTS_DIR": str(folder), "OMP_NUM_THREADS": "1"}
    lost, done, killed = 0, 0, set()
    while not (runs / "killed" / "finished.json").exists():
        begin = ["search", str(config), "--name", "killed"]
        verb = ["resume", "killed"] if (runs / "killed").exists() else begin
        before = len(faulty.lines(folder))
        codes = {0}
        with open(folder / "said", "w") as said:
            process = subprocess.Popen(
                [*HARNESS, *verb, "--runs", str(runs), *words],
                env=surroundings,
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
            )
        if done < kills:
            while process.poll() is None and len(faulty.lines(folder)) == before:
                time.sleep(0.02)
            time.sleep(rng.uniform(0, 0.6))
            if process.poll() is None:
                sent = by[done % len(by)]
                codes = {0, -sent if sent == signal.SIGKILL else 130}
                done += 1
                if sent == signal.SIGINT:
                    os.killpg(process.pid, sent)
                else:
                    process.send_signal(sent)
        process.wait()
        errors = (folder / "said").read_text()
        assert process.returncode in codes, errors
        assert "Traceback" not in errors
        if process.returncode == 130:
            assert f"continue with: blendsearch resume killed --runs {runs}" in errors
        now = rows(runs, "killed")
        lost += len(killed - now)
        killed = now
    assert done == kills, f"the search was over after {done} kills: give it more evaluations"
    return lost, faulty.repeated(folder)


@pytest.mark.parametrize(
    ("schedule", "kills", "evaluations"),
    [
        ("steady", 1, 24),  # test_search.py kills a generational one
        pytest.param("generational", 2, 40, marks=pytest.mark.slow),
        pytest.param("generational", 50, 500, marks=pytest.mark.slow),
        pytest.param("steady", 50, 500, marks=pytest.mark.slow),
    ],
)
def test_a_controller_killed_at_random_resumes_to_the_same_front(
    schedule: str, kills: int, evaluations: int, config_file: Path, quick: dict[str, Any], tmp_path: Path, capsys: Any
) -> None:
    quick["search"]["schedule"] = schedule  # here, with one worker, steady too has but one order
    longer(config_file, quick, evaluations)
    main(["search", str(config_file), "--runs", str(tmp_path), "--name", "whole"])
    lost, repeated = kill_again_and_again(config_file, tmp_path, tmp_path, kills)
    assert front(tmp_path, "killed", capsys) == front(tmp_path, "whole", capsys)
    with capsys.disabled():
        print(f"\n{kills} kills of the controller: {lost} evaluations lost, {repeated} repeated", file=sys.stderr)
    assert lost == 0
    assert repeated <= kills  # no more than the one under way, which had ended but was not yet stored


@pytest.mark.slow
@pytest.mark.parametrize(("where", "stops", "evaluations"), [("off", 2, 40), ("local", 4, 100)])
def test_an_interrupted_search_keeps_its_results_and_exits_with_130(
    where: str, stops: int, evaluations: int, config_file: Path, quick: dict[str, Any], tmp_path: Path, capsys: Any
) -> None:
    longer(config_file, quick, evaluations)
    main(["search", str(config_file), "--runs", str(tmp_path), "--name", "whole"])
    by = (signal.SIGTERM, signal.SIGINT)
    lost, repeated = kill_again_and_again(config_file, tmp_path, tmp_path, stops, "--ray", where, by=by)
    assert front(tmp_path, "killed", capsys) == front(tmp_path, "whole", capsys)
    with capsys.disabled():
        print(f"\n{stops} times told to stop, Ray {where}: {lost} lost, {repeated} repeated", file=sys.stderr)
    assert lost == 0
    assert repeated <= stops * (1 if where == "off" else 4)  # those that ended while the search was stopping


@pytest.mark.slow
def test_on_ray_a_killed_controller_ends_its_workers_and_resumes_to_the_same_front(
    config_file: Path, quick: dict[str, Any], tmp_path: Path, capsys: Any
) -> None:
    longer(config_file, quick, 120)
    main(["search", str(config_file), "--runs", str(tmp_path), "--name", "whole"])
    lost, repeated = kill_again_and_again(config_file, tmp_path, tmp_path, 4, "--ray", "local")
    assert front(tmp_path, "killed", capsys) == front(tmp_path, "whole", capsys)
    with capsys.disabled():
        print(f"\n4 kills on Ray: {lost} evaluations lost, {repeated} repeated", file=sys.stderr)
    assert lost == 0
    assert repeated <= 4 * 2 * 2
    workers = {int(line.split(" ")[1]) for line in (tmp_path / "log").read_text().splitlines()}
    for _ in range(100):
        if not any(Path(f"/proc/{process}").exists() for process in workers):
            break
        time.sleep(0.2)
    assert not [process for process in workers if Path(f"/proc/{process}").exists()], "workers outlived the controller"


@pytest.mark.parametrize("damage", ["truncated", "tampered"])
def test_a_damaged_checkpoint_is_skipped_with_a_warning(
    damage: str, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    main(["search", str(config_file), "--runs", str(tmp_path), "--name", "one"])
    before, stored = front(tmp_path, "one", capsys), rows(tmp_path, "one")
    (tmp_path / "one" / "finished.json").unlink()
    newest = max((tmp_path / "one" / "checkpoints").glob("generation-*.json"))
    text = newest.read_text()
    newest.write_text(text[: len(text) // 2] if damage == "truncated" else text.replace("asked", "Asked", 1))
    monkeypatch.setattr(Evaluator, "evaluate", lambda self, asked: pytest.fail("an evaluation was repeated"))
    main(["resume", "one", "--runs", str(tmp_path)])
    assert f"checkpoint {newest.name} is damaged" in capsys.readouterr().out
    assert front(tmp_path, "one", capsys) == before
    assert rows(tmp_path, "one") == stored


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1.5 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1536k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
def test_a_full_disk_stops_the_search_in_one_line_and_loses_nothing(
    small_disk: Path, config_file: Path, quick: dict[str, Any], tmp_path: Path, capsys: Any
) -> None:
    longer(config_file, quick, 60)
    main(["search", str(config_file), "--runs", str(tmp_path), "--name", "whole"])
    (tmp_path / "plan.json").write_text('{"*": "slow"}')
    surroundings = {**os.environ, "FAULTS_DIR": str(tmp_path)}
    words = [*HARNESS, "search", str(config_file), "--runs", str(small_disk), "--name", "one"]
    process = subprocess.Popen(words, env=surroundings, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while process.poll() is None and len(faulty.counted(tmp_path, "end")) < 20:
        time.sleep(0.02)
    with contextlib.suppress(OSError), open(small_disk / "filler", "wb", buffering=0) as file:
        while file.write(bytes(512)):
            pass
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "could not be written" in said or "cannot be written" in said
    assert "Traceback" not in said and len(said.strip().splitlines()) == 1
    (small_disk / "filler").unlink()
    before = rows(small_disk, "one")
    assert before
    subprocess.run([*HARNESS, "resume", "one", "--runs", str(small_disk)], env=surroundings, check=True)
    assert before <= rows(small_disk, "one")
    assert faulty.repeated(tmp_path) <= 1
    assert front(small_disk, "one", capsys) == front(tmp_path, "whole", capsys)
