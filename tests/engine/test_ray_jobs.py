"""Submission of searches to a cluster: package contents, refusals, and one search on a real head."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ports import free_ports
from run_files import front
from verbs import refused

from blendsearch.cli.main import main
from blendsearch.engine import ray_jobs as jobs
from blendsearch.errors import ConfigError
from blendsearch.runs.config.loading import parse_config


def test_the_package_holds_code_config_and_named_files(quick: dict[str, Any], tmp_path: Path) -> None:
    here, place = tmp_path / "here", tmp_path / "place"
    for name in ("net.py", "own/runs/criteria.py", "runs/one/run.py", ".venv/x.py", "env/pyvenv.cfg", "env/lib.py"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text("x = 1")
    for name in ("w.safetensors", "other.safetensors", "secret.txt"):
        (here / name).write_bytes(bytes(100))
    quick["model"]["weights"] = "w.safetensors"
    jobs.stage(parse_config(quick, "quick"), here, place)
    sent = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
    assert sent == {"net.py", "own/runs/criteria.py", "w.safetensors", jobs.CONFIG_FILE}
    assert parse_config(yaml.safe_load((place / jobs.CONFIG_FILE).read_text()), "sent") == parse_config(quick, "quick")
    with open(here / "w.safetensors", "wb") as file:
        file.truncate(300 * 2**20)
    with pytest.raises(ConfigError, match="w.safetensors; at most 200 MiB"):
        jobs.stage(parse_config(quick, "quick"), here, tmp_path / "again")
    quick["model"]["weights"] = "../outside.safetensors"
    with pytest.raises(ConfigError, match="absolute path"):
        jobs.stage(parse_config(quick, "quick"), here, tmp_path / "again")


def test_invalid_addresses_are_refused(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert "no token" in refused(capsys, "submit", tmp_path, config_file, "--address", "http://10.11.12.13:8265")
    assert "expected http" in refused(capsys, "job", tmp_path, "status", "x", "--address", "10.11.12.13:6379")


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of the dashboard of a head with two CPUs that requires a token."""
    pytest.importorskip("aiohttp", reason="the extra cluster is not installed")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "5e" * 32)
    port, dashboard, agent = free_ports(3)
    words = ["ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2"]
    words += ["--include-dashboard=true", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    words += ["--disable-usage-stats", f"--temp-dir=/tmp/ray-{port}"]  # sockets have short names
    words[0] = str(Path(sys.executable).with_name("ray"))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = subprocess.Popen(
        words, env={**os.environ, "PATH": path}, start_new_session=True, stdout=subprocess.DEVNULL
    )
    yield f"http://127.0.0.1:{dashboard}"
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=30)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def told(capsys: Any, *words: str) -> str:
    capsys.readouterr()
    main(list(words))
    said: str = capsys.readouterr().out
    return said


@pytest.mark.slow
def test_a_submitted_search_is_stopped_submitted_again_and_finished(
    head: str, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    runs, here = tmp_path / "runs", tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    (here / "mine.py").write_text("from blendsearch.zoo.digits_net import digits_net as net\n")
    tree = yaml.safe_load(config_file.read_text())
    tree["model"]["factory"] = "mine:net"
    tree["search"]["evaluations"] = 400
    config_file.write_text(yaml.safe_dump(tree))
    words = ["submit", str(config_file), "--address", head, "--name", "one", "--cluster-runs", str(runs), "--json"]

    def submitted() -> str:
        for _ in range(60):  # the dashboard takes a while to be there
            try:
                return str(json.loads(told(capsys, *words))["job"])
            except SystemExit:
                time.sleep(2)
        pytest.fail(f"the head took no job: {capsys.readouterr().err}")

    def until(job: str, *states: str) -> str:
        for _ in range(300):
            state = told(capsys, "job", "status", job, "--address", head).partition(":")[0]
            if state in states:
                return state
            time.sleep(1)
        pytest.fail(told(capsys, "job", "logs", job, "--address", head))

    first = submitted()
    store = runs / "one" / "run.sqlite"
    for _ in range(300):
        if store.exists() and json.loads(told(capsys, "status", "one", "--runs", str(runs), "--json"))["evaluations"]:
            break
        time.sleep(0.2)
    assert "stopping" in told(capsys, "job", "stop", first, "--address", head)
    until(first, "STOPPED", "FAILED")
    assert not (runs / "one" / "finished.json").exists(), "the search was over before it could be stopped"
    again = submitted()
    assert until(again, "SUCCEEDED", "FAILED") == "SUCCEEDED", told(capsys, "job", "logs", again, "--address", head)
    assert "front:" in told(capsys, "job", "logs", again, "--address", head)
    monkeypatch.syspath_prepend(str(here))
    main(["search", str(config_file), "--runs", str(runs), "--name", "whole"])
    assert front(runs, "one", capsys) == front(runs, "whole", capsys)
