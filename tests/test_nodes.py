"""A cluster of real nodes, one of which joins in the middle of the work and is killed in the middle of the work."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import faulty
import pytest
import torch
from test_engine import asked, evaluator
from test_faults import faulty_evaluator
from test_jobs import free_ports

from blendsearch.engine.engine import start_engine
from blendsearch.runs.config import EngineConfig

RAY = str(Path(sys.executable).with_name("ray"))
PROMPT = {  # a dead node is noticed in seconds
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
}


def start_node(*words: str) -> subprocess.Popen[bytes]:
    """A node in a process group of its own."""
    common = ["--block", "--node-ip-address=127.0.0.1", "--disable-usage-stats", "--num-gpus=0"]
    command = [RAY, "start", *common, *words]
    surroundings = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.Popen(command, env=surroundings, start_new_session=True, stdout=subprocess.DEVNULL)


def kill_node(node: subprocess.Popen[bytes]) -> None:
    """SIGKILL everything that `node` has started, as if its plug were pulled."""
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
    """The address of a head with one CPU, which demands a token."""
    for name, value in (PROMPT | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "6f" * 32}).items():
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
    yield address
    kill_node(node)


@pytest.mark.slow
def test_a_node_that_joins_is_put_to_work_and_one_that_is_killed_costs_no_attempt(head: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    (tmp_path / "plan.json").write_text(json.dumps({"*": "long"}))
    import ray

    ray.cloudpickle.register_pickle_by_value(faulty)
    engine = start_engine(EngineConfig(ray=head, threads=1, retries=0), faulty_evaluator())
    waiting = iter(asked(600))
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
        for outcome in engine.completed():
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
        direct = evaluator()
        for item in used:
            assert outcomes[item.digest]._replace(seconds=0) == direct.evaluate(item)._replace(seconds=0)
        begun = sum(faulty.counted(tmp_path, "begin").values())
        print(f"{len(used)} evaluations, none lost; {faulty.repeated(tmp_path)} repeated, {begun - len(used)} cut off")
        assert 1 <= begun - len(used) <= 2
    finally:
        if joining is not None and not killed:
            kill_node(joining)
        engine.close()
