"""Refuses requests before the API sees them: foreign hosts, web pages, wrong tokens, bodies that are too large."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Collection
from typing import Any
from urllib.parse import parse_qsl

from engine.machine.host_names import LOOPBACK_NAMES, host_allowed, written_forms

MAX_BODY = 64 * 2**20
"""Bytes of a request."""
TOO_LARGE = f"The request is larger than {MAX_BODY // 2**20} MB. Scale its images down before sending them."
OPEN = ("/docs", "/openapi.json")
"""Addresses that need no token: they tell nothing but how the API is used."""
TOKEN_NAMES = frozenset({"token", "access_token", "api_key", "apikey", "key"})


class ApiGuard:
    """ASGI middleware around the API.

    Args:
        token: that requests have to carry, as a bearer token or as the password of HTTP Basic, which the clients of
            AUTOMATIC1111's API can send.
        names: host names that are ours beside those of this computer.
    """

    def __init__(self, app: Any, token: str, names: Collection[str] = ()) -> None:
        self._app, self._token = app, token
        self._names = LOOPBACK_NAMES.union(*map(written_forms, names))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        status, why = self._refusal(scope)
        if status:
            await _refuse(send, status, why)
            return
        size = 0
        begun = False

        async def limited() -> Any:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_BODY:  # its header said less
                return {"type": "http.disconnect"}
            return message

        async def answered(message: Any) -> None:
            nonlocal begun
            if begun or size <= MAX_BODY:
                begun = True
                await send(message)

        await self._app(scope, limited, answered)
        if size > MAX_BODY and not begun:
            await _refuse(send, 413, TOO_LARGE)

    def _refusal(self, scope: Any) -> tuple[int, str]:
        """Status and reason; 0: the request may pass."""
        headers: dict[bytes, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, []).append(value.decode("latin-1"))
        hosts = headers.get(b"host", [])
        if len(hosts) != 1 or not host_allowed(hosts[0], self._names, any_address=False):
            return 403, "This server answers only to its own name. Use its address as it was printed."
        if b"origin" in headers:
            return 403, "This server does not answer web pages, only programs."
        if TOKEN_NAMES & {name.lower() for name, _ in parse_qsl(scope["query_string"].decode("latin-1"))}:
            return 400, "A token in the address is written into logs. Send it as a header: Authorization: Bearer TOKEN."
        lengths = headers.get(b"content-length", [])
        if any(not length.isdigit() or int(length) > MAX_BODY for length in lengths):
            return 413, TOO_LARGE
        if scope["path"] not in OPEN and not self._authorized(headers.get(b"authorization", [])):
            return 401, "The token is missing or wrong. Send the one that was printed when the server started."
        return 0, ""

    def _authorized(self, headers: list[str]) -> bool:
        if len(headers) != 1:
            return False
        kind, _, value = headers[0].partition(" ")
        if kind.lower() == "basic":
            try:
                value = base64.b64decode(value, validate=True).decode().partition(":")[2]
            except (binascii.Error, ValueError):
                return False
        elif kind.lower() != "bearer":
            return False
        return hmac.compare_digest(value.strip().encode(), self._token.encode())


async def _refuse(send: Any, status: int, why: str) -> None:
    body = json.dumps({"detail": why}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers += [(b"www-authenticate", b'Bearer, Basic realm="ControlNet Studio"')]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
