"""Two nodes of a Ray cluster in separate network namespaces, with one link between them that can be cut."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from blendsearch.engine.ray_connection import HEALTH_CHECK_ENVIRONMENT

RAY = str(Path(sys.executable).with_name("ray"))
HEAD, FAR = "10.213.77.1", "10.213.77.2"
PORT = 6379
"""Any will do: nothing else listens in a namespace that was made for it."""

COMMON = ["--block", "--disable-usage-stats", "--num-gpus=0"]


@dataclass
class TwoNodes:
    """A head and a far node; `surroundings` is the environment of every process of the cluster."""

    names: tuple[str, str]
    surroundings: dict[str, str]
    folder: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"{HEAD}:{PORT}"

    def begin(self, on: str, *words: str, said: Path | None = None) -> subprocess.Popen[str]:
        """Start a process on one of the nodes, head or far; its output goes to the file `said`."""
        name = self.names[on == "far"]
        with open(said or os.devnull, "w") as file:
            process = subprocess.Popen(
                ["ip", "netns", "exec", name, *words],
                env=self.surroundings,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                text=True,
            )
        self.started.append(process)
        return process

    def start_head(self, cpus: int) -> None:
        """Start Ray's head and wait until it responds."""
        place = [f"--port={PORT}", f"--node-ip-address={HEAD}", f"--temp-dir={self.folder}"]
        self.begin("head", RAY, "start", "--head", *COMMON, *place, "--include-dashboard=false", f"--num-cpus={cpus}")
        asked = ["ip", "netns", "exec", self.names[0], RAY, "health-check", "--address", self.address]
        for _ in range(30):
            done = subprocess.run(asked, env=self.surroundings, capture_output=True, check=False, timeout=60)
            if not done.returncode:
                return
            time.sleep(0.5)
        pytest.fail("the head did not start")

    def start_far(self, cpus: int) -> None:
        """Start Ray on the far node and wait until it is up; the head may not know of it yet."""
        place = [f"--address={self.address}", f"--node-ip-address={FAR}"]
        self.begin("far", RAY, "start", *COMMON, *place, f"--num-cpus={cpus}")
        for _ in range(120):
            if len(self.pids("far")) > 3:
                return
            time.sleep(0.5)
        pytest.fail("the far node did not start")

    def pids(self, on: str) -> set[int]:
        """Return the processes of a node."""
        asked = ["ip", "netns", "pids", self.names[on == "far"]]
        return {int(line) for line in _output(asked).split()}

    def cut_link(self) -> None:
        """Drop all packets between the nodes, without a signal to any process."""
        _output(["ip", "-n", self.names[0], "link", "set", "wire", "down"])

    def kill(self, on: str) -> None:
        """Kill all processes on a node by SIGKILL, like a power failure."""
        for _ in range(50):
            doomed = self.pids(on)
            if not doomed:
                return
            for process in doomed:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            for item in self.started:
                item.poll()  # or they would be counted as zombies
            time.sleep(0.1)
        raise AssertionError(f"processes of the {on} node outlive SIGKILL")


@contextmanager
def two_nodes(variables: dict[str, str]) -> Iterator[TwoNodes]:
    """Make the namespaces and the link; remove both and all their processes afterwards."""
    if os.geteuid() or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    names = (f"blend{os.getpid()}a", f"blend{os.getpid()}b")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # sockets have short names
    nodes = TwoNodes(names, {**os.environ, "PATH": path, **HEALTH_CHECK_ENVIRONMENT, **variables}, folder)
    made: list[str] = []
    try:
        for name in names:
            if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
                pytest.skip("network namespaces cannot be made here")
            made.append(name)
        _output(
            ["ip", "-n", names[0], "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", names[1]]
        )
        for name, own in zip(names, (HEAD, FAR), strict=True):
            _output(["ip", "-n", name, "address", "add", f"{own}/30", "dev", "wire"])
            for device in ("lo", "wire"):
                _output(["ip", "-n", name, "link", "set", device, "up"])
        yield nodes
    finally:
        if len(made) == 2:
            nodes.kill("head")
            nodes.kill("far")
        for name in made:
            _output(["ip", "netns", "delete", name])
        shutil.rmtree(folder, ignore_errors=True)


def _output(words: list[str]) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=30).stdout
