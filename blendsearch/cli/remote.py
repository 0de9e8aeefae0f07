"""Verbs that are asked of a `blendsearch serve` elsewhere, over its JSON API."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from blendsearch.errors import ConfigError
from blendsearch.service import LOOPBACK_HOSTS, TOKEN_VARIABLE

TIMEOUT = 60.0


class _NoRedirect(HTTPRedirectHandler):
    """The token goes to the server that was named, and nowhere else."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class ApiClient:
    """The server at a URL, asked with the token in the environment."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ConfigError(f"--server {url!r} is no server's address: expected one like http://127.0.0.1:8484")
        self._url = url.rstrip("/")
        self._token = os.environ.get(TOKEN_VARIABLE, "")
        if not self._token:
            raise ConfigError(
                f"--server needs its token in the environment: set {TOKEN_VARIABLE} to what `serve` printed"
            )
        here = parts.hostname in LOOPBACK_HOSTS
        if not here and parts.scheme == "http":
            print("warning: over plain HTTP the token can be read on the way: use a tunnel", file=sys.stderr)
        self._opener = build_opener(_NoRedirect, *([ProxyHandler({})] if here else []))

    def get(self, *segments: str) -> Any:
        """The answer at ``/api/PLACES``. Raises ConfigError with the server's own line when it refuses."""
        return self._request(segments, None)

    def post(self, *segments: str, body: Any) -> Any:
        """The answer to `body` as JSON; raises as `get` does."""
        return self._request(segments, json.dumps(body).encode())

    def _request(self, segments: tuple[str, ...], body: bytes | None) -> Any:
        where = "/".join([self._url, "api", *(quote(place, safe="") for place in segments)])
        headers = {"authorization": f"Bearer {self._token}", "content-type": "application/json"}
        try:
            with self._opener.open(Request(where, body, headers), timeout=TIMEOUT) as answer:
                return json.loads(answer.read() or b"null")
        except HTTPError as error:
            raise ConfigError(f"{self._url}: {_read_reason(error)}") from error
        except (URLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ConfigError(f"{self._url} does not answer ({reason}): is it served there?") from error


def make_api_client(arguments: argparse.Namespace) -> ApiClient | None:
    """The server that a verb is asked of; None for this machine's own runs."""
    return None if arguments.server is None else ApiClient(arguments.server)


def search(server: ApiClient, arguments: argparse.Namespace) -> None:
    """Start a search there, from a config that is here."""
    from blendsearch.runs.config.loading import DIGITS

    if arguments.controls or arguments.or_resume or arguments.ray not in (None, "off", "local"):
        raise ConfigError("--controls, --or-resume and --ray HOST are not for --server: run the search itself")
    path: Path = arguments.config or DIGITS
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path} cannot be read: {error}") from error
    changes = [*arguments.set, *([] if arguments.ray is None else [f"engine.ray={arguments.ray}"])]
    found = server.post("runs", body={"config": text, "name": arguments.name, "set": changes})
    _print_started(found["run"], arguments)


def resume(server: ApiClient, arguments: argparse.Namespace) -> None:
    """Continue a search there."""
    if arguments.ray is not None:
        raise ConfigError("--ray is not for --server: a run goes on where it was begun")
    _print_started(server.post("runs", arguments.run, "resume", body={"set": arguments.set})["run"], arguments)


def fork(server: ApiClient, arguments: argparse.Namespace) -> None:
    """Fork a run there."""
    changes = [*arguments.set, *([] if arguments.ray is None else [f"engine.ray={arguments.ray}"])]
    found = server.post("runs", arguments.run, "fork", body={"name": arguments.name, "set": changes})
    _print_started(found["run"], arguments)


def _print_started(run: str, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(json.dumps({"run": run, "server": arguments.server}))
        return
    print(f"run {run} is searched there; see: blendsearch status {run} --server {arguments.server}")


def _read_reason(error: HTTPError) -> str:
    try:
        return str(json.loads(error.read(10_000))["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"{error.code} {error.reason}"
