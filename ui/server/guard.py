"""Keeps other web sites out: requests that do not come from our own page are refused before the app sees them.

A page on the internet may let its own name point at 127.0.0.1 (DNS rebinding: a foreign Host), post to this app from
the user's browser (cross-site: a foreign Origin), or show our images as its own (Sec-Fetch-Site). All are answered by
default; here they get 403. What is left is looked at closely: address, files, size (``Inside``, with routes.py).
"""

from __future__ import annotations

import ipaddress
import json
import socket
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from anyio import to_thread

from ui.server.files import tidy
from ui.server.routes import API, FILE, door_of, file_allowed, forged_files

MOST_WORDS = 32 * 2**20  # bytes of a request that is no upload; a drawing's layers are the largest
TRIES, TRIES_SECONDS = 10, 60.0  # of the password
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


class Refusal(Exception):
    """A request that the app does not get to see. ``status``: 403, 404, 413, 429 or 507."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class LocalGuard:
    """ASGI middleware around the whole app.

    Args:
        names: host names that are ours. any_address: also every plain IP address.
        inside: looks closer at requests that come from our own page; None: any of them is let through.
    """

    def __init__(
        self,
        app: Any,
        names: frozenset[str] = LOOPBACK_NAMES,
        any_address: bool = False,
        inside: Inside | None = None,
    ) -> None:
        self.app = app
        self.names = names
        self.any_address = any_address
        self.inside = inside

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        try:
            self._check_sender(scope)
            if self.inside is not None:
                receive = await self.inside(scope, receive)
        except Refusal as refusal:
            await _refuse(scope, receive, send, refusal)
            return

        answered = False

        async def send_with_headers(message: Any) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                present = {name for name, _ in message.get("headers", ())}
                extra = [header for header in HEADERS if header[0] not in present]
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except Refusal as refusal:  # a body that was larger than its header said
            if not answered:
                await _refuse(scope, receive, send, refusal)

    def _check_sender(self, scope: Any) -> None:
        hosts, origins, sites, modes = (
            [v.decode("latin-1") for k, v in scope["headers"] if k == name]
            for name in (b"host", b"origin", b"sec-fetch-site", b"sec-fetch-mode")
        )
        if not (
            len(hosts) == 1
            and host_allowed(hosts[0], self.names, self.any_address)
            and all(origin_allowed(origin, hosts[0]) for origin in origins)
        ):
            raise Refusal(403, "this app answers only to its own page on this computer.")
        # Images, scripts and frames of other pages come without an Origin; browsers mark them all the same. A link
        # that somebody clicked on may lead to our front page and nowhere else.
        if any(site not in ("same-origin", "none") for site in sites):
            front = scope["type"] == "http" and scope["method"] == "GET" and scope["path"] == "/"
            if not (front and modes == ["navigate"]):
                raise Refusal(403, "this app answers only to its own page on this computer.")


class Inside:
    """What our own page, or a program that pretends to be it, may ask for.

    Args:
        shown: folders whose files are served. uploads: the folder that images are uploaded to.
        most: bytes of one upload; other requests may have ``MOST_WORDS``.
    """

    def __init__(self, shown: Iterable[Path], uploads: Path, most: int) -> None:
        self.shown = (*shown, uploads)
        self.uploads = uploads
        self.most = most
        self._tries: deque[float] = deque(maxlen=TRIES)

    async def __call__(self, scope: Any, receive: Any) -> Any:
        """The request's body, as the app is to read it.

        Raises:
            Refusal: no such address, a file outside, too large, too often.
        """
        if scope["type"] == "websocket":
            raise Refusal(404, "nothing is there.")  # the page uses none
        path, method = scope["path"], scope["method"]
        if door_of(method, path) is None:
            raise Refusal(404, "nothing is there.")
        if path.startswith(FILE) and not file_allowed(path[len(FILE) :], self.shown):
            raise Refusal(403, "this file is not shown.")
        if method != "POST":
            return receive
        if path.rstrip("/") == "/login":
            self._count_try()
        uploading = path.startswith(f"{API}/upload")
        if uploading and not await to_thread.run_sync(tidy, self.uploads):
            raise Refusal(507, "the folder for uploads is full. Try again in ten minutes.")
        most = self.most if uploading else MOST_WORDS
        lengths = [v for k, v in scope["headers"] if k == b"content-length"]
        if any(not length.isdigit() or int(length) > most for length in lengths):
            raise Refusal(413, f"more than {most // 2**20} MB.")
        if uploading:
            return _counted(receive, most)
        body = await _whole(receive, most)
        if path.startswith(f"{API}/queue/join"):
            self._check_files(body)
        return _replayed(body, receive)

    def _count_try(self) -> None:
        now = time.monotonic()
        if len(self._tries) == TRIES and now - self._tries[0] < TRIES_SECONDS:
            raise Refusal(429, "too many tries. Wait a minute.")
        self._tries.append(now)

    def _check_files(self, body: bytes) -> None:
        try:
            data = json.loads(body)
            forged = not isinstance(data, dict) or forged_files(data.get("data"), self.uploads)
        except (ValueError, RecursionError) as error:
            raise Refusal(403, "the request cannot be read.") from error
        if forged:
            raise Refusal(403, "a file that was not uploaded.")


async def _whole(receive: Any, most: int) -> bytes:
    parts: list[bytes] = []
    counted = _counted(receive, most)
    while True:
        message = await counted()
        if message["type"] != "http.request":
            raise Refusal(400, "the request ended too early.")
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _counted(receive: Any, most: int) -> Any:
    """``receive`` that stops a body which is larger than it may be, whatever its header said."""
    size = 0

    async def counted() -> Any:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > most:
            raise Refusal(413, f"more than {most // 2**20} MB.")
        return message

    return counted


def _replayed(body: bytes, receive: Any) -> Any:
    """``receive`` that gives the body, then whatever the connection says."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Any:
        return waiting.pop() if waiting else await receive()

    return replayed


async def _refuse(scope: Any, receive: Any, send: Any, refusal: Refusal) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    body = f"{refusal.status}: {refusal}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
