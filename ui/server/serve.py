"""One address of our own: whether something on the page has changed, as numbers that mean nothing else.

A page asks it every second. As an event of gradio's, that question would make the browser note its progress at every
field that was ever used: a third of a processor core on a page at rest. See ui/page/live.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from anyio import to_thread

PATH = "/studio/beat"


class Beat:
    """ASGI middleware that answers ``GET /studio/beat`` and leaves everything else to the app.

    Args:
        beats: a number for each group of parts, another one once something of the group has changed.
    """

    def __init__(self, app: Any, beats: Callable[[], Sequence[int]]) -> None:
        self._app, self._beats = app, beats

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != PATH:
            await self._app(scope, receive, send)
            return
        body = json.dumps(list(await to_thread.run_sync(self._beats))).encode()
        headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
