"""A cluster of real nodes, one of which joins during the work and is killed during the work."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faulty
import pytest
import torch
from evaluations import make_evaluator, make_requests
from faulty_engine import HARNESS, faulty_evaluator
from ports import free_ports
from run_files import front, longer, rows
from two_nodes import two_nodes

from blendsearch.cli.main import main
from blendsearch.engine.factory import start_engine
from blendsearch.engine.ray_connection import HEALTH_CHECK_ENVIRONMENT, authenticate
from blendsearch.runs.config.schema import EngineConfig

RAY = str(Path(sys.executable).with_name("ray"))


def start_node(*words: str) -> subprocess.Popen[bytes]:
    """Start a node in its own process group."""
    common = ["--block", "--node-ip-address=127.0.0.1", "--disable-usage-stats", "--num-gpus=0"]
    command = [RAY, "start", *common, *words]
    surroundings = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.Popen(command, env=surroundings, start_new_session=True, stdout=subprocess.DEVNULL)


def kill_node(node: subprocess.Popen[bytes]) -> None:
    """Kill all processes of `node` by SIGKILL, like a power failure."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    doomed = {node.pid}
    while more := {process for process, parent in parents.items() if parent in doomed} - doomed:
        doomed |= more
    for process in doomed:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue
    node.wait()


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a head with one CPU that requires a token."""
    for name, value in (HEALTH_CHECK_ENVIRONMENT | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "6f" * 32}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FAULTS_DIR", str(tmp_path))
    port, agent = free_ports(2)
    place = ["--include-dashboard=false", f"--temp-dir=/tmp/ray-{port}", f"--dashboard-agent-listen-port={agent}"]
    node = start_node("--head", f"--port={port}", "--num-cpus=1", *place)
    address = f"127.0.0.1:{port}"
    for _ in range(30):
        known = subprocess.run([RAY, "health-check", "--address", address], capture_output=True, check=False)
        if not known.returncode:
            break
    try:
        yield address
    finally:
        kill_node(node)
        shutil.rmtree(f"/tmp/ray-{port}", ignore_errors=True)


@pytest.mark.slow
def test_a_joining_node_is_used_and_a_killed_one_costs_no_attempt(head: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    (tmp_path / "plan.json").write_text(json.dumps({"*": "long"}))
    authenticate(head)  # before Ray is imported, which reads then what this sets
    import ray

    ray.cloudpickle.register_pickle_by_value(faulty)
    engine = start_engine(EngineConfig(ray=head, threads=1, retries=0), faulty_evaluator())
    waiting = iter(make_requests(600))
    used, outcomes, most = [], {}, 0
    joining = None

    def submit(number: int) -> None:
        for _ in range(number):
            used.append(next(waiting))
            engine.submit(used[-1])

    # evaluations of the nodes are told apart by their processes
    def processes() -> set[str]:
        return {line.split(" ")[1] for line in (tmp_path / "log").read_text().splitlines()}

    submit(4)
    assert engine.workers == 1
    killed, phase = False, 0
    try:
        for outcome in engine.iter_outcomes():
            assert not outcome.failure
            outcomes[outcome.digest] = outcome
            most = max(most, engine.workers)
            if phase == 0:
                joining, phase = start_node(f"--address={head}", "--num-cpus=2"), 1
            if phase == 1 and len(processes()) >= 3:
                assert joining is not None
                submit(4)  # so that the killed workers are at work
                kill_node(joining)
                killed, phase = True, 2
            if phase == 1:
                submit(1)
            if phase == 2 and engine.workers > 1:
                submit(1)
        assert killed and most == 3
        assert engine.workers == 1
        assert len(outcomes) == len(used)
        direct = make_evaluator()
        for item in used:
            assert outcomes[item.digest]._replace(seconds=0) == direct.evaluate(item)._replace(seconds=0)
        begun = sum(faulty.counted(tmp_path, "begin").values())
        print(f"{len(used)} evaluations, none lost; {faulty.repeated(tmp_path)} repeated, {begun - len(used)} cut off")
        assert 1 <= begun - len(used) <= 2
    finally:
        if joining is not None and not killed:
            kill_node(joining)
        engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["killed", "cut"])
def test_a_search_continues_when_a_node_is_killed_or_disconnected(
    fault: str, config_file: Path, quick: dict[str, Any], tmp_path: Path, capsys: Any
) -> None:
    longer(config_file, quick, 40)
    main(["search", str(config_file), "--runs", str(tmp_path), "--name", "whole"])
    (tmp_path / "plan.json").write_text(json.dumps({"*": "long"}))
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    said = tmp_path / "said"
    with two_nodes(token | {"FAULTS_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}) as nodes:
        nodes.start_head(cpus=1)
        nodes.start_far(cpus=2)
        words = [*HARNESS, "search", str(config_file), "--runs", str(tmp_path), "--name", "one"]
        search = nodes.begin("head", *words, "--ray", nodes.address, "--set", "engine.retries=0", said=said)

        def under_way() -> dict[str, int]:
            """Return the requests that run on the far node, with their processes."""
            far, open_work = nodes.pids("far"), {}
            for line in (tmp_path / "log").read_text().splitlines():
                what, process, work = line.split(" ", 2)
                if int(process) in far:
                    open_work[work] = int(process)
                    if what == "end":
                        del open_work[work]
            return open_work

        deadline = time.monotonic() + 240
        while not ((tmp_path / "log").exists() and sum(faulty.counted(tmp_path, "end").values()) >= 16 and under_way()):
            assert search.poll() is None and time.monotonic() < deadline, said.read_text()
            time.sleep(0.02)
        if fault == "cut":
            nodes.cut_link()
        else:
            nodes.kill("far")
        since, stored = time.monotonic(), rows(tmp_path, "one")
        begun = faulty.counted(tmp_path, "begin")
        again: dict[str, float] = {}
        while search.poll() is None:
            assert time.monotonic() < since + 300, said.read_text()
            for work, count in faulty.counted(tmp_path, "begin").items():
                if count > begun[work] and work in begun:
                    again.setdefault(work, time.monotonic() - since)
            time.sleep(0.05)
        assert search.returncode == 0, said.read_text()
    assert stored <= rows(tmp_path, "one")
    assert front(tmp_path, "one", capsys) == front(tmp_path, "whole", capsys)
    assert 1 <= len(again) <= 4
    assert all(not row[-1] for row in rows(tmp_path, "one") if row[0] == "evaluations")
    with capsys.disabled():
        after = ", ".join(f"{seconds:.1f} s" for seconds in again.values())
        repeated, lost = faulty.repeated(tmp_path), len(stored - rows(tmp_path, "one"))
        print(f"\nnode {fault}: {lost} evaluations lost, {repeated} repeated, re-run {after} later", file=sys.stderr)
