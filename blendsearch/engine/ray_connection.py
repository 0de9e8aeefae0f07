"""Connection to Ray, with token authentication wherever other machines can reach the cluster.

Since 2.59 Ray may enable token authentication on its own, in some processes and not in others, which then cannot find
each other. So the mode is set here while Ray starts, and every child process inherits it.
"""

import contextlib
import importlib
import ipaddress
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from blendsearch.engine.ray_watchdog import start_watchdog
from blendsearch.errors import EngineError, format_reason

JOB_CONFIG_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray in submitted jobs; their submission already required the token."""

HEALTH_CHECK_ENVIRONMENT = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_grpc_client_keepalive_time_ms": "10000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
}
"""Environment of all processes of a cluster, which detects a node with a broken link in seconds. Ray's defaults take
minutes. The same on head, workers and driver, as in docker/.
"""


LOOPBACK_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's switch for nodes with the address 127.0.0.1; without it, all processes of Ray listen on all interfaces."""

UV_VARIABLE = "RAY_ENABLE_UV_RUN_RUNTIME_ENV"
"""Under `uv run`, Ray would start every worker by `uv run` in a copy of the working directory without the right
environment, and a search would wait for workers that never start.
"""

CONSTANTS = {"ENABLE_RAY_CLUSTER": LOOPBACK_VARIABLE, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": UV_VARIABLE}
"""Constants that Ray sets from the environment when it is imported."""


@dataclass
class Connection:
    """A connection to Ray.

    Attributes
    ----------
    ray: the ray module.
    is_owned: False if this process was connected before; then `close` does nothing.
    watchdog: process that ends a local cluster if this process is killed.
    """

    ray: Any
    is_owned: bool
    watchdog: "subprocess.Popen[bytes] | None" = None

    def close(self) -> None:
        if self.is_owned:
            self.ray.shutdown()
            refresh_ray()
            self._stop_watchdog()

    def _stop_watchdog(self) -> None:
        if self.watchdog is not None:
            self.watchdog.kill()
            self.watchdog.wait()


def connect(cluster: str) -> Connection:
    """Connect to Ray, or return the existing connection of this process. The environment stays as it was.

    `cluster` is local (a new cluster on this machine, for this process), auto (the cluster of this machine, or of
    RAY_ADDRESS), or HOST:PORT. Raises EngineError if there is none, or if authentication is missing.
    """
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return Connection(sys.modules["ray"], is_owned=False)
    with restore_environment():
        authenticate(cluster)
        if cluster == "local":
            os.environ[LOOPBACK_VARIABLE] = "0"
            os.environ.pop("RAY_ADDRESS", None)  # otherwise Ray would connect there
        import ray

        connection = Connection(ray, is_owned=True, watchdog=start_watchdog() if cluster == "local" else None)
        try:
            with set_constants():
                refresh_ray()
                address = None if cluster == "local" else cluster
                with _keep_termination_handler():
                    ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
            if cluster == "auto" and JOB_CONFIG_VARIABLE not in os.environ:
                _require_token(ray.get_runtime_context().gcs_address)  # Ray may have found the address on its own
        except BaseException as error:
            connection.close()
            if isinstance(error, EngineError) or not isinstance(error, Exception):
                raise
            raise EngineError(_describe_failure(cluster, error)) from error
    return connection


def _describe_failure(cluster: str, error: Exception) -> str:
    reason = format_reason(error)
    if cluster == "local":
        return f"Ray did not start on this machine: {reason}; its logs are in the newest folder of /tmp/ray"
    return f"no Ray at {cluster!r}: {reason}; check that the cluster is up and has your token, or use local"


def check_access(cluster: str) -> None:
    """Raise EngineError for a cluster that `connect` would refuse."""
    with restore_environment():
        authenticate(cluster)


@contextlib.contextmanager
def restore_environment() -> Iterator[None]:
    """Restore the environment at the end; processes started meanwhile keep theirs."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def set_constants() -> Iterator[None]:
    """Set the constants of a Ray that was imported before the environment was set; restore them at the end."""
    from ray._private import ray_constants

    before = {name: getattr(ray_constants, name) for name in CONSTANTS if hasattr(ray_constants, name)}
    for name in before:
        setattr(ray_constants, name, os.environ.get(CONSTANTS[name], str(before[name])).lower() in ("1", "true"))
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(ray_constants, name, value)


def refresh_ray() -> None:
    """Make Ray read its environment again; it does so only once, when it is imported."""
    raylet: Any = importlib.import_module("ray._raylet")
    with contextlib.suppress(AttributeError):  # old versions have no token authentication
        raylet.Config.initialize("")  # before the token is dropped: Ray's threads may require one until then
        raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def _keep_termination_handler() -> Iterator[None]:
    """Keep this process's handler of SIGTERM, which Ray replaces by one that ends the process without a message."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if handler not in (signal.SIG_DFL, None):
            signal.signal(signal.SIGTERM, handler)


def authenticate(cluster: str) -> None:
    """Set RAY_AUTH_MODE, and other variables that Ray reads when it is imported, for this process and its children.

    The token itself is never shown. Raises EngineError if no token is known for a cluster that other machines can
    reach, and for a token file that others can read.
    """
    os.environ.setdefault(UV_VARIABLE, "0")
    exposed = is_token_exposed()
    if cluster == "local":
        if exposed or not has_token():
            # in the environment, since every later cluster would require the token in the file that Ray writes
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        os.environ["RAY_AUTH_MODE"] = "token"
        return
    if exposed and JOB_CONFIG_VARIABLE not in os.environ:
        raise EngineError(f"the token in {get_token_path()} can be read by others: chmod 600 {get_token_path()}")
    for name, value in HEALTH_CHECK_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_AUTH_MODE", "token" if has_token() else "disabled")
    address = cluster
    if cluster == "auto":
        address = "" if JOB_CONFIG_VARIABLE in os.environ else os.environ.get("RAY_ADDRESS", "")
    if address:
        _require_token(address)


def _require_token(address: str) -> None:
    authenticated = os.environ["RAY_AUTH_MODE"].lower() == "token" and has_token()
    if not authenticated and not is_loopback_address(address):
        raise EngineError(
            f"{address!r} can be reached from other machines and no token is known: anyone who reaches a Ray cluster "
            "without a token can run code on it; set one on the cluster, and the path of its file here in "
            "RAY_AUTH_TOKEN_PATH (RAY_AUTH_MODE=token)"
        )


def get_token_path() -> Path:
    """Return the file in which Ray looks for a token that is not in the environment."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def has_token() -> bool:
    """Return True if Ray would find a token."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    with contextlib.suppress(OSError):
        return get_token_path().stat().st_size > 0
    return False


def is_token_exposed() -> bool:
    """Return True if Ray would read its token from a file that users other than the owner can access."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return False
    with contextlib.suppress(OSError):
        return bool(get_token_path().stat().st_mode & 0o077)
    return False


def is_loopback_address(address: str) -> bool:
    """Return True if HOST:PORT or a URL names an address that only this machine can reach."""
    host = urlsplit(address if "://" in address else f"//{address}").hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
