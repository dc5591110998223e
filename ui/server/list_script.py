"""Serves gradio's script for dropdowns with a bug fixed: a list that lost entries while it was open broke the page.

gradio 6.31 (js/dropdown/shared/DropdownOptions.svelte) draws the entries by positions that it has kept, and reads
``choices[position][0]``. When the app sends fewer choices while the list is open, for example because old checkpoints
were removed, a position has no entry any more. The script error ends the update, and the page no longer follows the
app until it is loaded again. Here the entry's text is empty for that moment.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

PREFIX = "/assets/Index-"
_UNSAFE = re.compile(r"(\w+)\.choices\[(\w+)\((\w+)\)\]\[0\]")
_SAFE = r'(\1.choices[\2(\3)]??[""])[0]'


def assets_folder() -> Path:
    """The folder with gradio's page scripts."""
    import gradio

    return Path(gradio.__file__).parent / "templates" / "frontend" / "assets"


@lru_cache(maxsize=256)
def mended(name: str) -> bytes | None:
    """The script of this name with the bug fixed. None: it does not have the bug, or there is no such script."""
    path = assets_folder() / name
    if path.parent != assets_folder() or path.suffix != ".js" or not path.is_file():
        return None
    text, count = _UNSAFE.subn(_SAFE, path.read_text(encoding="utf-8"))
    return text.encode("utf-8") if count else None


class MendedLists:
    """ASGI middleware that answers requests for that one script, and passes everything else on."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        ours = scope["type"] == "http" and scope["method"] == "GET" and path.startswith(PREFIX)
        body = mended(path.rsplit("/", 1)[-1]) if ours else None
        if body is None:
            await self._app(scope, receive, send)
            return
        headers = [(b"content-type", b"text/javascript; charset=utf-8"), (b"cache-control", b"no-cache")]
        headers += [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
