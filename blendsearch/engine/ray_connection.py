"""Connecting to Ray, as somebody who may: with a token wherever others could reach the cluster too.

Since 2.59 Ray may turn token authentication on by itself, in some processes and not in others, after which they do not
find each other. So it is said here, before Ray is imported, and every process that is started from here inherits it.
"""

import contextlib
import ipaddress
import os
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from blendsearch.errors import EngineError

JOB_CONFIG_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray for what was submitted to it: whoever submitted has shown the token already."""

HEALTH_CHECK_ENVIRONMENT = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_grpc_client_keepalive_time_ms": "10000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
}
"""What a process of a cluster has in its environment so that a node whose link is cut is noticed in seconds, where Ray
takes minutes; the same on head, workers and driver, as in docker/."""


def connect(cluster: str) -> tuple[Any, bool]:
    """The ray module, connected, and whether the connection is ours to close.

    `where`: local (a cluster of this machine, for this process), auto (the one this machine belongs to, or that
    RAY_ADDRESS names), or HOST:PORT. Raises EngineError when there is none, or authentication is missing.
    """
    authenticate(cluster)
    import ray

    if ray.is_initialized():
        return ray, False
    try:
        address = None if cluster == "local" else cluster
        if address is None:
            os.environ.pop("RAY_ADDRESS", None)  # or Ray would take it for the address it was not given
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray raises a dozen types when there is no cluster
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EngineError(
            f"no Ray at {cluster!r}: {reason}; is the cluster up, and its token yours? use local to start one here"
        ) from error
    if cluster == "auto" and JOB_CONFIG_VARIABLE not in os.environ:
        try:
            _require_token(ray.get_runtime_context().gcs_address)  # it may be one that Ray knew of by itself
        except EngineError:
            ray.shutdown()
            raise
    return ray, True


def authenticate(cluster: str) -> None:
    """Set RAY_AUTH_MODE, and what else Ray reads on its import, for this process and those it starts.

    The token itself is never shown. Raises EngineError where no token is known for a cluster that other machines reach,
    and for a file with a token that others may read.
    """
    # under `uv run`, Ray would pack up the working directory and start every worker by `uv run` in a copy of it, where
    # there is no environment, or the wrong one: a search then waits for workers that never come
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    exposed = is_token_exposed()
    if cluster == "local":
        if exposed or not has_token():
            # in the environment, not in the file Ray would write: every cluster started later would demand that one
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
    guarded = os.environ["RAY_AUTH_MODE"].lower() == "token" and has_token()
    if not guarded and not is_loopback_address(address):
        raise EngineError(
            f"{address!r} can be reached from other machines and no token is known: whoever reaches a Ray cluster "
            "without one runs code on it; give the cluster one, and its file here in RAY_AUTH_TOKEN_PATH "
            "(RAY_AUTH_MODE=token)"
        )


def get_token_path() -> Path:
    """Where Ray looks for a token that is not in the environment."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def has_token() -> bool:
    """Whether Ray would find a token, where it looks for one."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    with contextlib.suppress(OSError):
        return get_token_path().stat().st_size > 0
    return False


def is_token_exposed() -> bool:
    """Whether Ray would take its token from a file that is not its owner's alone."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return False
    with contextlib.suppress(OSError):
        return bool(get_token_path().stat().st_mode & 0o077)
    return False


def is_loopback_address(address: str) -> bool:
    """Whether HOST:PORT or a URL names this machine by an address that only this machine reaches."""
    host = urlsplit(address if "://" in address else f"//{address}").hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
