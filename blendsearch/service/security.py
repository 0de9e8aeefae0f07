"""Checks of every request: host name, origin, token or session cookie, size of the body."""

import hmac
import json
import re
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from ipaddress import IPv6Address
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

MAX_BODY_SIZE = 256_000
BODY_TOO_LARGE = f"the body is too large: at most {MAX_BODY_SIZE:,} bytes are taken"
MAX_PORT = 65_535
SESSION_PATH = "/api/session"
"""The only address of the API without a token: it receives one."""

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Nothing from other hosts, no inline script or style, and no text that becomes markup."""

HOST = re.compile(r"(?P<name>\[[0-9a-f:]+\]|[a-z0-9._-]+)(?::(?P<port>[1-9][0-9]{0,4}))?", re.ASCII)
"""The header host: a name, or an IPv6 address in brackets, and perhaps a port. No user, no empty port."""

SECURITY_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Authenticator:
    """The token of this server, and the sessions of browsers that have sent it."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self._sessions: deque[bytes] = deque(maxlen=64)

    def is_valid_token(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(errors="replace"), self._token)

    def create_session(self) -> str:
        """Create a secret for a cookie, valid until the server ends or 64 more sessions are created."""
        session = secrets.token_urlsafe(32)
        self._sessions.append(session.encode())
        return session

    def has_session(self, session: str) -> bool:
        secret = session.encode(errors="replace")
        return any(hmac.compare_digest(secret, known) for known in self._sessions)

    def end_session(self, session: str) -> None:
        if self.has_session(session):
            self._sessions.remove(session.encode())


class Refusal(Exception):
    """A status, and the reason in one line."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class SecurityMiddleware:
    """Checks requests before they reach the application, so that no route is missed."""

    def __init__(self, app: App, authenticator: Authenticator, hosts: frozenset[str], cookie: str) -> None:
        self._app, self._authenticator, self._cookie = app, authenticator, cookie
        self._hosts = frozenset(f"[{name}]" if ":" in name else name for name in hosts)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # web sockets are not served

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add_headers(message, scope["path"])
            await send(message)

        try:
            self._check(scope)
            receiving = receive if scope["method"] in SAFE_METHODS else await _read_body(receive)
        except Refusal as refusal:
            await _refuse(send_with_headers, refusal)
            return
        await self._app(scope, receiving, send_with_headers)

    def _check(self, scope: MutableMapping[str, Any]) -> None:
        headers = _parse_headers(scope)
        host = headers.get("host", "")
        if not scope["path"].startswith("/"):
            raise Refusal(400, "the request names a whole address or none: expected a path that begins with /")
        if _parse_hostname(host) not in self._hosts:
            raise Refusal(421, f"this server does not answer to the name {host[:80]!r}: see serve --allow-host")
        if not (scope["path"] == "/api" or scope["path"].startswith("/api/")):
            return
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY_SIZE:
            raise Refusal(413, BODY_TOO_LARGE)
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        # another port of this machine is the same site to a cookie, though not the same origin
        if (origin is not None and origin not in (f"http://{host}", f"https://{host}")) or site in (
            "cross-site",
            "same-site",
        ):
            raise Refusal(403, "this request comes from a page of another origin, which is not allowed")
        if scope["path"] == SESSION_PATH and scope["method"] == "POST":
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._authenticator.is_valid_token(token.strip()):
            return
        if not self._authenticator.has_session(parse_session(headers.get("cookie", ""), self._cookie)):
            raise Refusal(401, "the token is missing or wrong: send it as `Authorization: Bearer TOKEN`")
        if scope["method"] not in SAFE_METHODS and origin is None and site != "same-origin":
            raise Refusal(403, "a cookie alone cannot change anything: the browser sent no origin")


async def _read_body(receive: Receive) -> Receive:
    """Read the whole body before it is processed."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal(400, "the client left before the end of its request")
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY_SIZE:
            raise Refusal(413, BODY_TOO_LARGE)
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_body() -> Message:
        return left.pop() if left else await receive()

    return receive_body


def parse_session(cookies: str, name: str) -> str:
    """Return the session in a cookie header; empty without one."""
    try:
        found = SimpleCookie(cookies).get(name)
    except CookieError:
        return ""
    return "" if found is None else found.value


def _parse_headers(scope: MutableMapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in scope["headers"]:
        name = key.decode("latin-1").lower()
        if name in found and name in ("host", "origin", "authorization", "content-length"):
            raise Refusal(400, f"the header {name} is repeated")
        found[name] = value.decode("latin-1")
    return found


def _parse_hostname(host: str) -> str:
    """Return the host name without its port, as it is written; empty where it cannot be parsed."""
    found = HOST.fullmatch(host)
    return "" if found is None or int(found["port"] or 1) > MAX_PORT else found["name"]


def is_host_name(name: str) -> bool:
    """Return whether `name` is a lower-case host name, or an IPv6 address without brackets, and no port."""
    if ":" not in name:
        return name != "" and _parse_hostname(name) == name
    try:
        return str(IPv6Address(name)) == name
    except ValueError:
        return False


def _add_headers(message: Message, path: str) -> None:
    present = {key.lower() for key, _ in message["headers"]}
    further = dict(SECURITY_HEADERS)
    # pages are cached, and revalidated at every use
    further["cache-control"] = "no-store" if path.startswith("/api/") else "no-cache"
    message["headers"] = [
        *message["headers"],
        *((key.encode(), value.encode()) for key, value in further.items() if key.encode() not in present),
    ]


async def _refuse(send: Send, refusal: Refusal) -> None:
    body = json.dumps({"error": refusal.reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
