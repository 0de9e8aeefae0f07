"""The cluster of `--ray local` listens on loopback only, ends with its search, and leaves the environment as it was."""

import ipaddress
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from blendsearch.engine import ray_connection
from blendsearch.engine.factory import check_engine
from blendsearch.engine.ray_connection import connect
from blendsearch.engine.ray_watchdog import find_cluster_processes, read_start_time
from blendsearch.errors import EngineError
from blendsearch.runs.config.schema import EngineConfig

MAX_SECONDS = 10
"""Time after which no process of a killed search may be left."""


def start_search(config_file: Path, tmp_path: Path) -> "subprocess.Popen[bytes] | None":
    """Start a search on a local cluster with two workers, and wait until it evaluates.

    Return None where Ray gave up: on a loaded machine, its node does not start within Ray's 30 seconds.
    """
    words = ["search", str(config_file), "--runs", str(tmp_path / "runs"), "--name", "one", "--ray", "local"]
    changes = ["--set", "search.evaluations=100000", "--set", "engine.workers=2"]
    with open(tmp_path / "output", "w") as output:
        started = subprocess.Popen(
            [sys.executable, "-m", "blendsearch", *words, *changes],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    while len([*tmp_path.glob("runs/one/logs/worker-*.jsonl")]) < 2:
        if started.poll() is not None:
            output = (tmp_path / "output").read_text()
            assert "timed out during startup" in output, output
            shutil.rmtree(tmp_path / "runs", ignore_errors=True)
            return None
        time.sleep(0.2)
    return started


@pytest.fixture
def search(config_file: Path, tmp_path: Path) -> Iterator[psutil.Process]:
    """A search on a local cluster with two workers that evaluates."""
    started = next(filter(None, (start_search(config_file, tmp_path) for _ in range(5))))
    yield psutil.Process(started.pid)
    started.kill()
    started.wait()


def list_listeners(processes: list[psutil.Process]) -> set[tuple[str, str]]:
    """List the name and the address of every TCP and UDP listener."""
    found = set()
    for process in processes:
        for connection in process.net_connections("inet"):
            if not connection.raddr:
                found.add((process.name(), connection.laddr.ip.removeprefix("::ffff:")))
    return found


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_a_local_cluster_listens_on_loopback_and_ends_with_a_killed_search(
    search: psutil.Process, capsys: pytest.CaptureFixture[str]
) -> None:
    processes = search.children(recursive=True)
    names = {process.name() for process in processes}
    assert {"gcs_server", "raylet"} <= names and len([name for name in names if name.startswith("ray::Worker")]) >= 1
    listeners = list_listeners([search, *processes])
    assert {name for name, _ in listeners} >= {"gcs_server", "raylet"}
    assert not [item for item in listeners if not ipaddress.ip_address(item[1]).is_loopback]
    search.send_signal(signal.SIGKILL)
    start = time.monotonic()
    while any(map(is_alive, processes)) and time.monotonic() - start < 2 * MAX_SECONDS:
        time.sleep(0.1)
    seconds = time.monotonic() - start
    with capsys.disabled():
        print(f"\n{seconds:.1f} s from the kill of the search to the end of its last process", file=sys.stderr)
    # the watchdog itself ends last
    assert seconds < MAX_SECONDS, [process.name() for process in processes if is_alive(process)]


IMPORTED_FIRST = """
import os
import ray
before = dict(os.environ)
from blendsearch.engine.ray_connection import connect
connection = connect("local")
assert dict(os.environ) == before
assert connection.ray.get(ray.remote(lambda: os.environ["RAY_AUTH_MODE"]).remote()) == "token"
connection.close()
assert dict(os.environ) == before
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
own = connect("local")
own.close()
assert ray.is_initialized() and ray.get(ray.remote(lambda: 7).remote()) == 7
print("works")
"""


@pytest.mark.slow
def test_ray_imported_first_works_before_and_after_a_search(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(IMPORTED_FIRST)
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    surroundings |= {"HOME": str(tmp_path)}  # where Ray writes a token for the user's own cluster
    done = subprocess.run([sys.executable, str(script)], env=surroundings, capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("works"), done.stderr


def test_the_environment_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    before = dict(os.environ)
    check_engine(EngineConfig(ray="local"))
    check_engine(EngineConfig(ray="127.0.0.1:6379"))
    assert dict(os.environ) == before


def test_a_local_cluster_that_does_not_start_is_one_line_with_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def fail(**arguments: object) -> None:
        raise RuntimeError("Failed to start GCS.\nmore")

    before = dict(os.environ)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fail)
    watchdogs = []
    start_watchdog = ray_connection.start_watchdog
    monkeypatch.setattr(ray_connection, "start_watchdog", lambda: watchdogs.append(start_watchdog()) or watchdogs[0])
    with pytest.raises(EngineError, match="did not start on this machine: Failed to start GCS.; its logs") as refused:
        connect("local")
    assert "\n" not in str(refused.value) and "token" not in str(refused.value)
    assert dict(os.environ) == before
    assert watchdogs[0].poll() is not None


def test_only_younger_processes_that_write_to_the_logs_of_a_cluster_belong_to_it(tmp_path: Path) -> None:
    session = tmp_path / "session_2026-01-02_03-04-05_678901_42"
    session.mkdir()
    (session / "log").write_text("")
    started_at = read_start_time(os.getpid())
    with open(session / "log", "a") as log, open(session / "log") as read:
        writer = subprocess.Popen(["sleep", "60"], stdout=log)
        reader = subprocess.Popen(["sleep", "60"], stdin=read)
        found = set(find_cluster_processes(42, started_at))
        assert writer.pid in found and reader.pid not in found
        assert writer.pid not in set(find_cluster_processes(2, started_at))
        assert not set(find_cluster_processes(42, read_start_time(writer.pid) + 1))
    for process in (writer, reader):
        process.kill()
        process.wait()


def test_the_page_on_clusters_lists_every_port() -> None:
    page = (Path(__file__).parents[2] / "docs" / "howto" / "cluster.md").read_text("utf-8")
    section = re.search(r"^## Open ports\n.*?(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    assert section
    for name in ("gcs_server", "raylet", "RuntimeEnvAgent", "DashboardAgent", "worker", "searching process"):
        assert name in section.group(), name
