"""Access to clusters: every process requires a token, which is written nowhere; without one, a cluster is refused."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from two_nodes import COMMON, HEAD, PORT, RAY, TwoNodes, two_nodes

from blendsearch.engine.ray_connection import authenticate, is_token_exposed
from blendsearch.errors import EngineError

NO_TOKEN = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "RAY_ADDRESS")


def below(process: int) -> set[int]:
    """Return the process and all of its descendants."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = {process}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder with a short path, for Ray's sockets."""
    made = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_every_process_requires_a_token_and_none_writes_it(
    config_file: Path, tmp_path: Path, short_folder: Path
) -> None:
    token = secrets.token_hex(32)
    surroundings = {name: value for name, value in os.environ.items() if name not in NO_TOKEN}
    surroundings |= {"RAY_AUTH_TOKEN": token, "RAY_TMPDIR": str(short_folder), "OMP_NUM_THREADS": "1"}
    words = ["search", str(config_file), "--runs", str(tmp_path / "runs"), "--ray", "local"]
    changes = ["--set", "search.evaluations=12", "--set", "engine.workers=1"]
    with open(tmp_path / "said", "w") as said:
        search = subprocess.Popen(
            [sys.executable, "-m", "blendsearch", *words, *changes],
            env=surroundings,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    names: dict[int, set[str]] = {}
    modes: dict[int, str] = {}
    while search.poll() is None:
        for process in below(search.pid) - {search.pid}:  # its own was set after it had begun
            with suppress(OSError):
                environment = Path(f"/proc/{process}/environ").read_bytes().decode(errors="replace").split("\0")
                command = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace")
                assert token not in command
                if command:
                    names.setdefault(process, set()).add(command.split("\0")[0].rpartition("/")[2])
                # a worker writes its title over its environment; what is just being born has none yet
                if any(environment) and command and not command.startswith("ray::"):
                    told = [item for item in environment if item.startswith("RAY_AUTH_MODE=")]
                    # what it began with does not change: a look in the middle of that writing takes nothing back
                    modes[process] = "".join(told) or modes.get(process, "")
        time.sleep(0.05)
    assert search.returncode == 0, (tmp_path / "said").read_text()
    assert {"gcs_server", "raylet"} <= set().union(*names.values())
    assert any(name.startswith("ray::") for seen in names.values() for name in seen), "no worker was seen"
    # a worker that was only seen while it wrote its title has no mode here; others of its kind have
    clear = [process for process, seen in names.items() if modes.get(process) or not any("ray::" in it for it in seen)]
    assert {process: modes.get(process) for process in clear} == dict.fromkeys(clear, "RAY_AUTH_MODE=token"), names
    written = [path for place in (tmp_path, short_folder) for path in place.rglob("*") if path.is_file()]
    assert any(path.name.startswith("raylet") for path in written) and any(path.name == "run.json" for path in written)
    assert not [path for path in written if token.encode() in path.read_bytes()]


def test_a_token_readable_by_others_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NO_TOKEN:
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "token"
    path.write_text(secrets.token_hex(32))
    path.chmod(0o640)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    with pytest.raises(EngineError, match="can be read by others: chmod 600"):
        authenticate("10.11.12.13:6379")
    authenticate("local")
    assert os.environ["RAY_AUTH_TOKEN"] != path.read_text(), "a cluster of our own took a token that others know"
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    path.chmod(0o600)
    assert not is_token_exposed()
    authenticate("10.11.12.13:6379")


def refused(nodes: TwoNodes, said: Path, *words: str) -> str:
    """Return the one-line error of a search on the head node that does not start."""
    search = nodes.begin("head", sys.executable, "-m", "blendsearch", "search", *words, said=said)
    with suppress(subprocess.TimeoutExpired):
        search.wait(timeout=180)
    assert search.returncode == 2, said.read_text()
    last = said.read_text().strip().splitlines()[-1]
    assert last.startswith("blendsearch: ") and "Traceback" not in said.read_text()
    return last


@pytest.mark.slow
def test_an_exposed_head_is_refused_without_its_token(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for name in NO_TOKEN:
        monkeypatch.delenv(name, raising=False)
    said, token = tmp_path / "said", secrets.token_hex(32)
    here = (str(config_file), "--runs", str(tmp_path / "runs"))
    # RAY_TMPDIR: where Ray notes which cluster this machine belongs to
    with two_nodes({"RAY_AUTH_MODE": "token", "HOME": str(tmp_path), "RAY_TMPDIR": str(tmp_path)}) as nodes:
        start = [RAY, "start", "--head", *COMMON, f"--node-ip-address={HEAD}", f"--port={PORT}"]
        head = nodes.begin("head", *start, said=said)
        assert head.wait(timeout=120) != 0
        assert "token" in said.read_text().lower()
        nodes.surroundings["RAY_AUTH_MODE"] = "disabled"
        nodes.start_head(cpus=1)
        assert "no token is known" in refused(nodes, said, *here, "--ray", nodes.address)
        assert "no token is known" in refused(nodes, said, *here, "--ray", "auto")
        nodes.kill("head")
        nodes.surroundings |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        nodes.start_head(cpus=1)
        nodes.surroundings["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        line = refused(nodes, said, *here, "--ray", nodes.address)
        with capsys.disabled():
            print(f"\nwith another token: {line}", file=sys.stderr)
        assert token not in said.read_text()
        del nodes.surroundings["RAY_AUTH_TOKEN"]
        assert "no token is known" in refused(nodes, said, *here, "--ray", nodes.address)
    assert not (tmp_path / "runs").exists()
