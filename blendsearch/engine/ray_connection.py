"""Connection to Ray, with token authentication wherever other machines can reach the cluster.

Since 2.59 Ray may enable token authentication on its own, in some processes and not in others, which then cannot find
each other. So the mode is set here, before Ray is imported, and every child process inherits it.
"""

import contextlib
import ipaddress
import os
import secrets
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from blendsearch.errors import EngineError

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


def connect(cluster: str) -> tuple[Any, bool]:
    """Connect to Ray; return the ray module, and True if this process must close the connection.

    `cluster` is local (a new cluster on this machine, for this process), auto (the cluster of this machine, or of
    RAY_ADDRESS), or HOST:PORT. Raises EngineError if there is none, or if authentication is missing.
    """
    authenticate(cluster)
    import ray

    if ray.is_initialized():
        return ray, False
    try:
        address = None if cluster == "local" else cluster
        if address is None:
            os.environ.pop("RAY_ADDRESS", None)  # otherwise Ray would connect there
        with _keep_termination_handler():
            ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray raises a dozen types when there is no cluster
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EngineError(
            f"no Ray at {cluster!r}: {reason}; check that the cluster is up and has your token, or use local"
        ) from error
    if cluster == "auto" and JOB_CONFIG_VARIABLE not in os.environ:
        try:
            _require_token(ray.get_runtime_context().gcs_address)  # Ray may have found the address on its own
        except EngineError:
            ray.shutdown()
            raise
    return ray, True


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
    """Set RAY_AUTH_MODE, and other variables that Ray reads on import, for this process and its children.

    The token itself is never shown. Raises EngineError if no token is known for a cluster that other machines can
    reach, and for a token file that others can read.
    """
    # under `uv run`, Ray would start every worker by `uv run` in a copy of the working directory without the right
    # environment, and a search would wait for workers that never start
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
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
