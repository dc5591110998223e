"""The list of all addresses of gradio's server: which ones the app answers, and what guards each.

The page needs about twenty. For the others, and for any address that is not listed, the app answers 404 before gradio
sees the request. A test compares the list with the routes of the running app, so a route that a later gradio adds stays
closed until it is entered here. docs/security.md shows the same list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

API = "/gradio_api"
FILE = f"{API}/file="
POLL = "/studio/poll"
PROGRESS = "/studio/progress"
STREAM = f"{API}/stream/{{session_hash}}/{{run}}/{{component_id}}"
GUARDED = "Host, Origin, Sec-Fetch-Site"
LOGIN = f"{GUARDED}; the password where there is one"
LIBRARY = f"{GUARDED}; only files of gradio's own folder"


@dataclass(frozen=True)
class Route:
    """An address, and whether the app answers it."""

    path: str
    """As in Starlette: ``{name}`` stands for one part, ``{name:path}`` for the rest."""
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


def _closed(path: str, what: str, *methods: str) -> Route:
    return Route(path, what, "not answered (404)", methods or ("GET",), open=False)


ROUTES = (
    Route("/", "the page", LOGIN, ("GET", "HEAD")),
    Route("/config", "the page's layout", LOGIN),
    Route("/theme.css", "colours"),
    Route(f"{API}/theme.css", "colours"),
    Route("/favicon.ico", "the icon"),
    Route("/robots.txt", "a line for search engines"),
    Route("/assets/{path:path}", "scripts and styles", LIBRARY),
    Route("/static/{path:path}", "images and fonts of the page", LIBRARY),
    Route("/svelte/{path:path}", "scripts of the page", LIBRARY),
    Route("/login", "asks for the password", f"{GUARDED}; ten attempts a minute", ("POST",)),
    Route("/logout", "deletes the login cookie", GUARDED),
    Route(f"{API}/login_check", "whether the password was given", LOGIN),
    Route(f"{API}/user", "the user's name", GUARDED),
    Route(f"{API}/app_id", "tells the page that the app has restarted", GUARDED),
    Route(f"{API}/startup-events", "called once by the server itself", GUARDED),
    Route(POLL, "whether the page has to refresh, as version numbers", GUARDED),
    Route(PROGRESS, "progress of the running job and the outcome of the last one, as numbers, without names", GUARDED),
    Route(f"{API}/heartbeat/{{session_hash}}", "reports that a page was closed", GUARDED),
    Route(
        f"{API}/queue/join",
        "every button and field of the page",
        f"{LOGIN}; size; files only from the app's own folder of uploads; choices only from those offered",
        ("POST",),
    ),
    Route(f"{API}/queue/data", "results of the page's own requests, by session", LOGIN),
    Route(f"{API}/cancel", "a page cancels its own request", f"{GUARDED}; size", ("POST",)),
    Route(f"{API}/reset", "does nothing in this version", f"{GUARDED}; size", ("POST",)),
    Route(
        f"{API}/upload",
        "images that are dropped on the page",
        f"{LOGIN}; size of each and of all; number and age of the files",
        ("POST",),
    ),
    Route(f"{API}/upload_progress", "progress of an upload", LOGIN),
    Route(
        f"{API}/component_server",
        "layers of a drawing, where a page has a sketch pad",
        f"{LOGIN}; size; only functions that gradio marks for it",
        ("POST",),
    ),
    Route(
        f"{API}/file={{path_or_url:path}}",
        "images that the app made or was given",
        f"{LOGIN}; only files in thumbnails/, outputs/ or temporary/ of the workspace, after links are followed",
        ("GET", "HEAD"),
    ),
    _closed("/openapi.json", "description of the server"),
    _closed(f"{API}/openapi.json", "description of the functions"),
    _closed(f"{API}/info", "description of the functions"),
    _closed(f"{API}/file/{{path:path}}", "older form of file="),
    _closed(f"{API}/proxy={{url_path:path}}", "fetches from Hugging Face Spaces", "GET", "HEAD"),
    _closed(f"{API}/run/{{api_name}}", "functions by name", "POST"),
    _closed(f"{API}/api/{{api_name}}", "functions by name", "POST"),
    _closed(f"{API}/call/{{api_name}}", "functions by name", "POST"),
    _closed(f"{API}/call/v2/{{api_name}}", "functions by name", "POST"),
    _closed(f"{API}/call/{{api_name}}/{{event_id}}", "results of functions by name"),
    _closed(f"{API}/call/v2/{{api_name}}/{{event_id}}", "results of functions by name"),
    _closed(f"{API}/queue/status", "length of the queue"),
    _closed(f"{API}/token", "a Hugging Face token"),
    _closed(f"{API}/dev/reload", "reloading for developers"),
    _closed(f"{API}/runs", "gradio's own history"),
    _closed(f"{API}/run-history/connect", "gradio's own history", "POST"),
    _closed(f"{API}/run-history/buckets", "gradio's own history"),
    _closed(f"{API}/run-history/records", "gradio's own history"),
    _closed(f"{API}/run-history/records/{{endpoint}}/{{record_id}}/assets/{{asset_id}}", "gradio's own history"),
    _closed(f"{API}/deep_link", "saves the page's state"),
    _closed(f"{API}/custom_component/{{id}}/{{environment}}/{{type}}/{{file_name}}", "third-party components"),
    _closed(f"{API}/stream/{{event_id}}", "audio and video streams", "POST"),
    _closed(f"{API}/stream/{{event_id}}/close", "audio and video streams", "POST"),
    _closed(f"{STREAM}/playlist.m3u8", "audio and video streams"),
    _closed(f"{STREAM}/{{segment_id}}.{{ext}}", "audio and video streams"),
    _closed(f"{STREAM}/playlist-file", "audio and video streams"),
    _closed(f"{API}/process_recording", "recordings", "POST"),
    _closed(f"{API}/vibe-edit", "lets a language model change the app", "POST"),
    _closed(f"{API}/undo-vibe-edit", "lets a language model change the app", "POST"),
    _closed(f"{API}/vibe-code", "lets a language model change the app", "GET", "POST"),
    _closed(f"{API}/vibe-starter-queries", "lets a language model change the app", "POST"),
    _closed("/pwa_icon", "install as an app"),
    _closed("/pwa_icon/{size}", "install as an app"),
    _closed("/manifest.json", "install as an app"),
    _closed("/monitoring", "statistics"),
    _closed("/monitoring/summary", "statistics"),
    _closed("/monitoring/{key}", "statistics"),
)
_OPEN = tuple((route, route.pattern) for route in ROUTES if route.open)


def find_route(method: str, path: str) -> Route | None:
    """Return the open route of a request (``path`` is percent-decoded), or None if there is none."""
    if not path.startswith(FILE) and not _plain(path):
        return None
    return next((route for route, pattern in _OPEN if method in route.methods and pattern.fullmatch(path)), None)


def _plain(path: str) -> bool:
    return "\\" not in path and "\0" not in path and ".." not in path.split("/")
