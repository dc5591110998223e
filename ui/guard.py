"""Keeps other web sites out: requests with a foreign Host or Origin header are refused before the app sees them.

A page on the internet may let its own name point at 127.0.0.1 (DNS rebinding: a foreign Host) or post to this app from
the user's browser (cross-site: a foreign Origin). Both are answered by default; here both get 403.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
# The page may talk to this app only: nothing is fetched from elsewhere, whatever a component would like to load.
CONTENT_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "connect-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
)
HEADERS = (
    (b"content-security-policy", CONTENT_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


def machine_names() -> frozenset[str]:
    """Names by which this computer is known in its own network."""
    name = socket.gethostname().lower()
    return frozenset({name, f"{name.split('.')[0]}.local"}) if name else frozenset()


def host_allowed(host: str, names: Iterable[str], any_address: bool) -> bool:
    """Whether a Host header, ``name`` or ``name:port``, is one of ours.

    ``any_address``: also every plain IP address (an address cannot be pointed elsewhere as a name can).
    """
    name = _name_of(f"//{host}")
    if name is None:
        return False
    if name in names:
        return True
    if not any_address:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def origin_allowed(origin: str, host: str) -> bool:
    """Whether an Origin header names the very server that is asked (``host``: the Host header, already allowed)."""
    try:
        parts = urlsplit(origin)
        return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()
    except ValueError:
        return False


def _name_of(address: str) -> str | None:
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises where the port is no number
        if parts.path or parts.query or parts.fragment or "@" in parts.netloc:
            return None
        return parts.hostname
    except ValueError:
        return None


class LocalGuard:
    """ASGI middleware around the whole app."""

    def __init__(self, app: Any, names: frozenset[str] = LOOPBACK_NAMES, any_address: bool = False) -> None:
        self.app = app
        self.names = names
        self.any_address = any_address

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        hosts, origins = ([v.decode("latin-1") for k, v in scope["headers"] if k == n] for n in (b"host", b"origin"))
        allowed = (
            len(hosts) == 1
            and host_allowed(hosts[0], self.names, self.any_address)
            and all(origin_allowed(origin, hosts[0]) for origin in origins)
        )
        if not allowed:
            await _refuse(scope, receive, send)
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message.get("headers", ())}
                extra = [header for header in HEADERS if header[0] not in present]
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        await self.app(scope, receive, send_with_headers)


async def _refuse(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    body = b"403: this app answers only to its own page on this computer.\n"
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
