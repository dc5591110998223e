"""Every address that gradio's server answers to, whether it is open here, and what guards it.

The page needs about twenty of them; the others are answered with 404 before gradio sees the request. A test holds this
list against the routes of the running app: one that a later gradio adds has to be entered here first, and is shut until
then. docs/security.md shows the same list.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ui.server.serve import PATH

API = "/gradio_api"
STREAM = f"{API}/stream/{{session_hash}}/{{run}}/{{component_id}}"
GUARDED = "Host, Origin, Sec-Fetch-Site"
LOGIN = f"{GUARDED}; the password where there is one"
LIBRARY = f"{GUARDED}; only files of gradio's own folder"


@dataclass(frozen=True)
class Door:
    """An address. ``path`` as the server's routes are written: ``{name}`` for a part, ``{name:path}`` for the rest."""

    path: str
    what: str
    guard: str = GUARDED
    methods: tuple[str, ...] = ("GET",)
    open: bool = True

    @property
    def pattern(self) -> re.Pattern[str]:
        parts = re.split(r"(\{[^}]+\})", self.path)
        text = "".join(
            (".*" if part.endswith(":path}") else "[^/]+") if part.startswith("{") else re.escape(part)
            for part in parts
        )
        return re.compile(text + "/?", re.DOTALL)


def _shut(path: str, what: str, *methods: str) -> Door:
    return Door(path, what, "not answered (404)", methods or ("GET",), open=False)


DOORS = (
    Door("/", "the page", LOGIN, ("GET", "HEAD")),
    Door("/config", "the page's layout", LOGIN),
    Door("/theme.css", "colours"),
    Door(f"{API}/theme.css", "colours"),
    Door("/favicon.ico", "the icon"),
    Door("/robots.txt", "a line for search engines"),
    Door("/assets/{path:path}", "scripts and styles", LIBRARY),
    Door("/static/{path:path}", "images and fonts of the page", LIBRARY),
    Door("/svelte/{path:path}", "scripts of the page", LIBRARY),
    Door("/login", "asks for the password", f"{GUARDED}; few wrong tries a minute", ("POST",)),
    Door("/logout", "forgets the password's cookie", GUARDED),
    Door(f"{API}/login_check", "whether the password was given", LOGIN),
    Door(f"{API}/user", "the user's name", GUARDED),
    Door(f"{API}/app_id", "tells the page that the app was started anew", GUARDED),
    Door(f"{API}/startup-events", "called once by the server itself", GUARDED),
    Door(PATH, "whether something on the page has changed, as numbers", GUARDED),
    Door(f"{API}/heartbeat/{{session_hash}}", "tells that a page was closed", GUARDED),
    Door(
        f"{API}/queue/join",
        "every button and field of the page",
        f"{LOGIN}; size; files only from the app's own folder of uploads; choices only from those offered",
        ("POST",),
    ),
    Door(f"{API}/queue/data", "answers to the page's own requests, by its session", LOGIN),
    Door(f"{API}/cancel", "a page takes back its own request", f"{GUARDED}; size", ("POST",)),
    Door(f"{API}/reset", "does nothing in this version", f"{GUARDED}; size", ("POST",)),
    Door(
        f"{API}/upload",
        "images that are dropped on the page",
        f"{LOGIN}; size of each and of all; number and age of the files",
        ("POST",),
    ),
    Door(f"{API}/upload_progress", "how far an upload is", LOGIN),
    Door(
        f"{API}/component_server",
        "a drawing's layers, where a page has a sketch pad",
        f"{LOGIN}; size; only functions that gradio marks for it",
        ("POST",),
    ),
    Door(
        f"{API}/file={{path_or_url:path}}",
        "images that the app made or was given",
        f"{LOGIN}; only files that lie, links followed, in thumbnails/, outputs/ or temporary/ of the workspace",
        ("GET", "HEAD"),
    ),
    _shut("/openapi.json", "description of the server"),
    _shut(f"{API}/openapi.json", "description of the functions"),
    _shut(f"{API}/info", "description of the functions"),
    _shut(f"{API}/file/{{path:path}}", "old form of file="),
    _shut(f"{API}/proxy={{url_path:path}}", "fetches from Hugging Face Spaces", "GET", "HEAD"),
    _shut(f"{API}/run/{{api_name}}", "functions by name", "POST"),
    _shut(f"{API}/api/{{api_name}}", "functions by name", "POST"),
    _shut(f"{API}/call/{{api_name}}", "functions by name", "POST"),
    _shut(f"{API}/call/v2/{{api_name}}", "functions by name", "POST"),
    _shut(f"{API}/call/{{api_name}}/{{event_id}}", "answers of functions by name"),
    _shut(f"{API}/call/v2/{{api_name}}/{{event_id}}", "answers of functions by name"),
    _shut(f"{API}/queue/status", "length of the queue"),
    _shut(f"{API}/token", "a token of Hugging Face"),
    _shut(f"{API}/dev/reload", "for developers"),
    _shut(f"{API}/runs", "gradio's own history"),
    _shut(f"{API}/run-history/connect", "gradio's own history", "POST"),
    _shut(f"{API}/run-history/buckets", "gradio's own history"),
    _shut(f"{API}/run-history/records", "gradio's own history"),
    _shut(f"{API}/run-history/records/{{endpoint}}/{{record_id}}/assets/{{asset_id}}", "gradio's own history"),
    _shut(f"{API}/deep_link", "saves the page's state"),
    _shut(f"{API}/custom_component/{{id}}/{{environment}}/{{type}}/{{file_name}}", "components of others"),
    _shut(f"{API}/stream/{{event_id}}", "streams of sound and film", "POST"),
    _shut(f"{API}/stream/{{event_id}}/close", "streams of sound and film", "POST"),
    _shut(f"{STREAM}/playlist.m3u8", "streams of sound and film"),
    _shut(f"{STREAM}/{{segment_id}}.{{ext}}", "streams of sound and film"),
    _shut(f"{STREAM}/playlist-file", "streams of sound and film"),
    _shut(f"{API}/process_recording", "recordings", "POST"),
    _shut(f"{API}/vibe-edit", "lets a language model change the app", "POST"),
    _shut(f"{API}/undo-vibe-edit", "lets a language model change the app", "POST"),
    _shut(f"{API}/vibe-code", "lets a language model change the app", "GET", "POST"),
    _shut(f"{API}/vibe-starter-queries", "lets a language model change the app", "POST"),
    _shut("/pwa_icon", "install as an app"),
    _shut("/pwa_icon/{size}", "install as an app"),
    _shut("/manifest.json", "install as an app"),
    _shut("/monitoring", "statistics"),
    _shut("/monitoring/summary", "statistics"),
    _shut("/monitoring/{key}", "statistics"),
)  # fmt: skip
FILE = f"{API}/file="
_OPEN = tuple((door, door.pattern) for door in DOORS if door.open)


def door_of(method: str, path: str) -> Door | None:
    """The open door for a request, ``path`` with its percent signs resolved; None where there is none."""
    if not path.startswith(FILE) and not _plain(path):
        return None
    return next((door for door, pattern in _OPEN if method in door.methods and pattern.fullmatch(path)), None)


def _plain(path: str) -> bool:
    return "\\" not in path and "\0" not in path and ".." not in path.split("/")


def file_allowed(path: str, folders: Iterable[Path]) -> bool:
    """Whether a path names a plain file inside one of the folders, links followed.

    Paths of other computers (``\\\\server\\share``) are refused by their looks alone: to ask Windows about one would
    already send the user's name and password's hash there.
    """
    if not path or "\0" in path or "://" in path or path.startswith(("//", "\\\\", "/\\", "\\/")):
        return False
    if os.name == "nt" and ":" in path and not re.fullmatch(r"[A-Za-z]:[^:]*", path):
        return False  # a stream of a file
    if not os.path.isabs(path):  # noqa: PTH117 (no Path is made of what may be no path)
        return False
    try:
        found = Path(path).resolve(strict=True)
        return found.is_file() and any(found.is_relative_to(folder.resolve()) for folder in folders)
    except (OSError, ValueError, RuntimeError):  # not there, no name at all, a ring of links
        return False


def forged_files(value: Any, uploads: Path) -> bool:
    """Whether a request's data speaks of a file that is not one of the uploads (the page sends ``{"path": ...}``)."""
    if isinstance(value, dict):
        path = value.get("path")
        if path is not None and not (isinstance(path, str) and file_allowed(path, (uploads,))):
            return True
        return any(forged_files(inner, uploads) for inner in value.values())
    if isinstance(value, list):
        return any(forged_files(inner, uploads) for inner in value)
    return False


def table() -> str:
    """The list as docs/security.md shows it."""
    rows = [f"| {' '.join(d.methods)} | `{d.path}` | {d.what} | {d.guard} |" for d in DOORS]
    return "\n".join(["| | address | for | guard |", "|---|---|---|---|", *rows])
