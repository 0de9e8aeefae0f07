"""The server: an address, a token, and the application behind them until it is interrupted."""

import os
import secrets
import socket
import sys
from pathlib import Path

from blendsearch.errors import ConfigError
from blendsearch.extras import format_missing
from blendsearch.json_output import format_json
from blendsearch.service import LOOPBACK_HOSTS, TOKEN_VARIABLE
from blendsearch.service.security import Authenticator, is_host_name
from blendsearch.service.workspace import Workspace

MIN_TOKEN_LENGTH = 20


def serve(
    runs: Path, host: str, port: int, data: Path | None, host_names: tuple[str, ...] = (), as_json: bool = False
) -> None:
    """Serve the folder `runs` at `host` and `port` (0: any free one) until interrupted.

    `host_names` are further names that the server answers to. Raises ConfigError when it cannot be served there.
    """
    try:
        from blendsearch.service.app import make_app
        from blendsearch.service.connections import ConnectionLimits, make_server, raise_file_limit
    except ImportError as error:
        raise ConfigError(format_missing("the live page", "serve", [error.name or "fastapi"])) from error
    if data is not None and not data.is_dir():
        raise ConfigError(f"--data {data} is not a folder")
    for name in host_names:
        _check_host_name(name)
    token = os.environ.pop(TOKEN_VARIABLE, "") or secrets.token_urlsafe(32)
    if len(token) < MIN_TOKEN_LENGTH or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"{TOKEN_VARIABLE} is not a valid token: expected at least {MIN_TOKEN_LENGTH} random letters without spaces"
        )
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen at {host} port {port}: {error}; choose another --port") from error
    port = listening.getsockname()[1]
    hosts = LOOPBACK_HOSTS | {host.lower(), *(name.lower() for name in host_names)}
    app = make_app(Workspace(runs.resolve(), data), Authenticator(token), frozenset(hosts), f"blendsearch-{port}")
    shown = f"[{host}]" if ":" in host else {"0.0.0.0": "localhost"}.get(host, host)
    _announce(runs, f"http://{shown}:{port}", token, as_json)
    if host not in LOOPBACK_HOSTS:
        print("warning: over plain HTTP the token can be read in transit: use a tunnel", file=sys.stderr)
    make_server(app, ConnectionLimits(raise_file_limit())).run(sockets=[listening])


def _check_host_name(name: str) -> None:
    if not is_host_name(name.lower()):
        raise ConfigError(f"--allow-host {name!r} is not the name of a host: expected a name or an address, no port")


def _announce(runs: Path, url: str, token: str, as_json: bool) -> None:
    if as_json:
        print(format_json({"url": url, "token": token}), flush=True)
        return
    # the part behind # is not sent, so that no log has the token
    print(f"runs in {runs}, live at {url}/#token={token}", flush=True)
    print("the token is printed only once; HTTP clients send it as: Authorization: Bearer TOKEN", flush=True)
