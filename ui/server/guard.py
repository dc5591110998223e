"""Refuses requests that do not come from the app's own page, before the app sees them.

By default a web server on 127.0.0.1 answers every page in the user's browser. A page on the internet can point its own
host name at 127.0.0.1 (DNS rebinding: a foreign Host), post to this app (a cross-site request: a foreign Origin), or
embed its images (Sec-Fetch-Site). All of these get 403 here. ``RequestFilter`` checks what remains: the address, the
files, the size.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from anyio import to_thread
from starlette.requests import ClientDisconnect

from engine.machine.host_names import LOOPBACK_NAMES, host_allowed, name_of, origin_allowed
from ui.server.files import file_allowed, has_forged_file, remove_old_uploads
from ui.server.routes import API, FILE, find_route

MAX_BODY = 32 * 2**20  # bytes of a request that is not an upload; the layers of a drawing are the largest
LOGIN_ATTEMPTS, LOGIN_SECONDS = 10, 60.0
# The page may load from this app only, whatever a gradio component would fetch from elsewhere.
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


class Refused(Exception):
    """Raised for a request that is not passed to the app. ``status``: 400, 403, 404, 413, 429 or 507."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class LocalGuard:
    """ASGI middleware around the whole app.

    Args:
        names: host names that are ours.
        any_address: accept every plain IP address too.
        allowed: more names, which the user gave: of a reverse proxy, or of this computer in another network.
        requests: checks the requests of our own page; None lets all of them through.
    """

    def __init__(
        self,
        app: Any,
        names: frozenset[str] = LOOPBACK_NAMES,
        any_address: bool = False,
        requests: RequestFilter | None = None,
        allowed: frozenset[str] = frozenset(),
    ) -> None:
        self.app = app
        self.names = names | allowed
        self.allowed = allowed
        self.any_address = any_address
        self.requests = requests

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        try:
            self._check_sender(scope)
            scope = self._without_foreign_names(scope)
            if self.requests is not None:
                receive = await self.requests(scope, receive)
        except Refused as refusal:
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
        except Refused as refusal:  # the body was larger than its header said
            if not answered:
                await _refuse(scope, receive, send, refusal)
        except ClientDisconnect:
            return  # a page was closed, or an upload broke off: no one is waiting for an answer

    def _without_foreign_names(self, scope: Any) -> Any:
        """The request without the X-Forwarded-Host of a name that is not ours: gradio makes addresses of it."""

        def ours(value: bytes) -> bool:
            first = value.decode("latin-1").split(",")[0].strip()
            return host_allowed(first, self.names, self.any_address)

        kept = [(k, v) for k, v in scope["headers"] if k != b"x-forwarded-host" or ours(v)]
        return scope if len(kept) == len(scope["headers"]) else {**scope, "headers": kept}

    def _is_allowed_name(self, origin: str) -> bool:
        """Whether an Origin is one of the names that the user allowed: a reverse proxy may send another Host."""
        try:
            parts = urlsplit(origin)
            return parts.scheme in ("http", "https") and parts.hostname in self.allowed
        except ValueError:
            return False

    def _why(self, hosts: list[str]) -> str:
        why = "this app answers only to its own page on this computer."
        name = name_of(f"//{hosts[0]}") if len(hosts) == 1 else None
        if name is None or name in self.names or not self.any_address:
            return why
        return f"{why} If {name} is another name of this computer, start the app with --allow-host {name}."

    def _check_sender(self, scope: Any) -> None:
        hosts, origins, sites, modes = (
            [v.decode("latin-1") for k, v in scope["headers"] if k == name]
            for name in (b"host", b"origin", b"sec-fetch-site", b"sec-fetch-mode")
        )
        if not (
            len(hosts) == 1
            and host_allowed(hosts[0], self.names, self.any_address)
            and all(origin_allowed(origin, hosts[0]) or self._is_allowed_name(origin) for origin in origins)
        ):
            raise Refused(403, self._why(hosts))
        # Images, scripts and frames that other pages embed come without an Origin, but browsers mark them. A link on
        # another page may open our front page and nothing else.
        if any(site not in ("same-origin", "none") for site in sites):
            front = scope["type"] == "http" and scope["method"] == "GET" and scope["path"] == "/"
            if not (front and modes == ["navigate"]):
                raise Refused(403, "this app answers only to its own page on this computer.")


class RequestFilter:
    """Checks the requests of our own page, or of a program that pretends to be it.

    Args:
        served: folders whose files may be read.
        uploads: the folder that images are uploaded to; its files may be read, too.
        max_upload: bytes of one upload. Other requests may have ``MAX_BODY``.
    """

    def __init__(self, served: Iterable[Path], uploads: Path, max_upload: int) -> None:
        self.served = (*served, uploads)
        self.uploads = uploads
        self.max_upload = max_upload
        self._logins: deque[float] = deque(maxlen=LOGIN_ATTEMPTS)

    async def __call__(self, scope: Any, receive: Any) -> Any:
        """Return the ``receive`` from which the app reads the request's body.

        Raises:
            Refused: there is no such address, a file lies outside the folders, or the request is too large or too
                frequent.
        """
        if scope["type"] == "websocket":
            raise Refused(404, "there is nothing here.")  # the page uses no websocket
        path, method = scope["path"], scope["method"]
        if find_route(method, path) is None:
            raise Refused(404, "there is nothing here.")
        if path.startswith(FILE) and not file_allowed(path[len(FILE) :], self.served):
            raise Refused(403, "this file is not served.")
        if method != "POST":
            return receive
        if path.rstrip("/") == "/login":
            self._count_login()
        uploading = path.startswith(f"{API}/upload")
        if uploading and not await to_thread.run_sync(remove_old_uploads, self.uploads):
            raise Refused(507, "the folder for uploads is full. Try again in ten minutes.")
        limit = self.max_upload if uploading else MAX_BODY
        lengths = [v for k, v in scope["headers"] if k == b"content-length"]
        if any(not length.isdigit() or int(length) > limit for length in lengths):
            raise Refused(413, f"more than {limit // 2**20} MB.")
        if uploading:
            return _limited(receive, limit)
        body = await _read_body(receive, limit)
        if path.startswith(f"{API}/queue/join"):
            self._check_files(body)
        return _replayed(body, receive)

    def _count_login(self) -> None:
        now = time.monotonic()
        if len(self._logins) == LOGIN_ATTEMPTS and now - self._logins[0] < LOGIN_SECONDS:
            raise Refused(429, "too many attempts. Wait a minute.")
        self._logins.append(now)

    def _check_files(self, body: bytes) -> None:
        try:
            data = json.loads(body)
            forged = not isinstance(data, dict) or has_forged_file(data.get("data"), self.uploads)
        except (ValueError, RecursionError) as error:
            raise Refused(403, "the request cannot be read.") from error
        if forged:
            raise Refused(403, "the request names a file that was not uploaded.")


async def _read_body(receive: Any, limit: int) -> bytes:
    parts: list[bytes] = []
    limited = _limited(receive, limit)
    while True:
        message = await limited()
        if message["type"] != "http.request":
            raise Refused(400, "the request was cut off.")
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _limited(receive: Any, limit: int) -> Any:
    """Return a ``receive`` that refuses a body above the limit, whatever the header says."""
    size = 0

    async def limited() -> Any:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise Refused(413, f"more than {limit // 2**20} MB.")
        return message

    return limited


def _replayed(body: bytes, receive: Any) -> Any:
    """Return a ``receive`` that yields the body, then the messages of the connection."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Any:
        return waiting.pop() if waiting else await receive()

    return replayed


async def _refuse(scope: Any, receive: Any, send: Any, refusal: Refused) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    body = f"{refusal.status}: {refusal}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
