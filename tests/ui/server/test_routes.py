"""No route and no function of the running app returns a file outside its folders."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image, PngImagePlugin

from docs import make_security_tables as security
from tests.browser.studio import ROOT, Studio, studio
from ui.server import files
from ui.server.files import file_allowed, has_forged_file
from ui.server.routes import FILE, POLL, PROGRESS, ROUTES, Route, find_route

SECRET = "canary-7f1e9c"
COLD = (str(ROOT / "tests" / "ui" / "server" / "cold.py"),)


def gradio_routes() -> set[tuple[str, str]]:
    """Return (method, path) of every route of gradio's server."""
    import gradio as gr
    from gradio.routes import App

    with gr.Blocks(analytics_enabled=False) as demo:
        gr.Textbox()
    found: set[tuple[str, str]] = set()

    def walk(routes: Any) -> None:
        for route in routes:
            inner = getattr(route, "original_router", route)
            if getattr(inner, "routes", None):
                walk(inner.routes)
            else:
                found.update((method, route.path.rstrip("/") or "/") for method in route.methods)

    walk(App.create_app(demo).routes)
    return found


def test_every_route_of_gradio_is_listed() -> None:
    listed = {(method, route.path) for route in ROUTES for method in route.methods}
    here = gradio_routes()
    # An OPTIONS or HEAD request returns no more than the GET of the same route.
    missing = {(m, p) for m, p in here if m not in ("HEAD", "OPTIONS")} - listed
    assert missing == set(), "enter them in ui/server/routes.py, closed unless the page needs them"
    gone = {(m, p) for m, p in listed if m != "HEAD"} - here
    ours = {("GET", POLL), ("GET", PROGRESS)}
    assert gone - ours <= {("POST", "/login"), ("GET", "/logout")}, "gradio has these no more"


def test_the_documentation_shows_both_tables() -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    assert security.routes_table() in page and security.fields_table() in page, (
        "python -m docs.make_security_tables writes them"
    )


def test_every_field_for_text_or_files_is_listed(tmp_path: Path) -> None:
    import gradio as gr

    from engine.workspace.paths import Workspace
    from ui.app import build_app
    from ui.page.context import AppContext
    from ui.page.user_image import UserDrawing, UserImage

    functions = build_app(AppContext(Workspace(tmp_path)))[0].fns.values()
    assert [function.api_name for function in functions if function.api_visibility != "private"] == []
    found = {security.name_of(c): c for function in functions for c in function.inputs if security.takes_anything(c)}
    unlisted = {name for name in found if security.guard_of(name) is None}
    assert unlisted == set(), "enter them in docs/make_security_tables.py"
    for name, component in found.items():
        guard = security.guard_of(name)
        opens_images = isinstance(component, UserImage | UserDrawing | gr.File)
        assert opens_images == (guard in (security.IMAGE, security.UPLOAD)), "the table says what the field does"
    chosen = [c for function in functions for c in function.inputs if hasattr(c, "choices")]
    for component in {c._id: c for c in chosen if not security.takes_anything(c)}.values():
        several = type(component).__name__ == "CheckboxGroup" or getattr(component, "multiselect", False)
        forged = ["../../x"] if several else "../../x"
        with pytest.raises(Exception, match="not in the list of choices"):
            component.preprocess(forged)


@pytest.mark.parametrize("route", [route for route in ROUTES if not route.open], ids=lambda route: route.path)
def test_a_closed_route_is_closed_for_any_path(route: Route) -> None:
    path = re.sub(r"\{[^}]+\}", "x", route.path)
    for method in route.methods:
        assert find_route(method, path) is None and find_route(method, path + "/") is None


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../../etc/passwd",
        "/assets/..\\..\\x",
        "/static/x\0.png",
        "/nothing",
        "/gradio_api",
        "/gradio_api/",
        "/gradio_api/queue",
        "/gradio_api/queue/join/../../x",
        "//etc/passwd",
        "",
        "*",
        "/gradio_api/FILE=/etc/passwd",
    ],
)
def test_an_unknown_path_has_no_route(path: str) -> None:
    assert find_route("GET", path) is None
    assert find_route("DELETE", "/") is None


@dataclass(frozen=True)
class Place:
    """A folder that is served, with an image and traps in it, and a secret outside."""

    shown: Path
    image: Path
    secret: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("place")
    shown = folder / "shown"
    shown.mkdir()
    image, secret = shown / "picture.png", folder / "shown-too" / "secret.png"
    secret.parent.mkdir()
    note = PngImagePlugin.PngInfo()
    note.add_text("note", SECRET)
    Image.new("RGB", (40, 40), "teal").save(image)
    Image.new("RGB", (40, 40), "red").save(secret, pnginfo=note)
    if hasattr(os, "symlink") and os.name != "nt":
        (shown / "link.png").symlink_to(secret)
        (shown / "folder").symlink_to(secret.parent)
        (shown / "ring.png").symlink_to(shown / "ring.png")
        (shown / "inside.png").symlink_to(image)
    return Place(shown, image, secret)


def traps(place: Place) -> list[str]:
    """Return paths that lead to the secret, or would on some system."""
    secret, shown = str(place.secret), str(place.shown)
    back = f"{shown}/../{place.secret.parent.name}/{place.secret.name}"
    return [
        secret, back, f"{shown}/./../{place.secret.parent.name}//{place.secret.name}", f"{shown}/link.png",
        f"{shown}/folder/{place.secret.name}", f"{shown}/ring.png", f"{secret}\0.png", f"{shown}/picture.png\0{secret}",
        f"file://{secret}", f"file:{secret}", f"http://127.0.0.1:1/{place.secret.name}", "http://example.com/x.png",
        f"//host/share/{place.secret.name}", f"\\\\host\\share\\{place.secret.name}", f"\\\\?\\{secret}",
        f"\\\\.\\{secret}", f"/\\host\\share\\{place.secret.name}", f"\\/host/share/{place.secret.name}",
        f"//{secret}", f"{shown}\\..\\{place.secret.parent.name}\\{place.secret.name}",
        quote(secret), quote(secret, safe=""), quote(quote(secret, safe=""), safe=""), back.replace("..", "%2e%2e"),
        back.replace("..", "%252e%252e"), back.replace("..", "..;"), back.replace("/", "%2f"), "/etc/passwd",
        "../../../../../../etc/passwd", "..", ".", "", "/", shown, "~/.ssh/id_rsa", "C:\\Windows\\win.ini",
        "C:/Windows/win.ini", "picture.png", "\ud800", "a" * 5000, f"{shown}/picture.png:stream",
        "data:image/png;base64,AAAA", f"{shown.upper()}/../{secret}", "/proc/self/environ", "/dev/zero",
    ]  # fmt: skip


def test_only_files_inside_the_folders_are_allowed(place: Place) -> None:
    assert file_allowed(str(place.image), [place.shown])
    assert [trap for trap in traps(place) if file_allowed(trap, [place.shown])] == []
    if os.name != "nt":
        assert file_allowed(str(place.shown / "inside.png"), [place.shown]), "a link that stays inside"


def test_a_forged_file_is_found_anywhere_in_the_data(place: Place) -> None:
    uploaded = {"path": str(place.image), "meta": {"_type": "gradio.FileData"}}
    assert not has_forged_file([uploaded, "words", 3, None, {"image": uploaded, "caption": "x"}], place.shown)
    for trap in [*traps(place), 7, ["x"], {"path": "x"}]:
        forged = {"path": trap, "meta": {"_type": "gradio.FileData"}}
        for data in (
            [forged],
            [[{"image": forged}]],
            [{"background": uploaded, "layers": [forged]}],
            [forged | uploaded],
        ):
            wanted = data != [forged | uploaded]  # the last one's path is the uploaded image
            assert has_forged_file(data, place.shown) is wanted, (trap, data)


def test_old_uploads_are_removed_and_new_ones_kept(tmp_path: Path) -> None:
    for number in range(6):
        path = tmp_path / f"folder{number}" / "picture.png"
        path.parent.mkdir()
        path.write_bytes(b"x" * 100)
        os.utime(path, (1000.0 + number, 1000.0 + number))
    assert files.remove_old_uploads(tmp_path, 1000, 10, now=5000.0)
    assert len(list(tmp_path.rglob("*.png"))) == 6
    assert files.remove_old_uploads(tmp_path, 350, 10, now=5000.0)
    assert sorted(p.parent.name for p in tmp_path.rglob("*.png")) == ["folder3", "folder4", "folder5"]
    assert not (tmp_path / "folder0").exists()
    assert files.remove_old_uploads(tmp_path, 1000, 1, now=5000.0)
    assert not files.remove_old_uploads(tmp_path, 50, 1, now=1100.0), "the newest is in use: the folder is full"
    assert len(list(tmp_path.rglob("*.png"))) == 1


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    with studio(tmp_path_factory.mktemp("routes") / "workspace", program=COLD, DISPLAY="") as opened:
        yield opened


def ask(app: Studio, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    """Send a request with the path unchanged, and return status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", app.port, timeout=30)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        if body is not None:
            headers = {"content-type": "application/json", "content-length": str(len(body))} | headers
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def sendable(path: str) -> str:
    """Return a path that fits into the request line, with as few changes as possible."""
    return quote(path, safe="/\\:%?=~.;", errors="surrogatepass").replace("?", "%3F")


@pytest.mark.slow
def test_no_route_returns_the_secret(app: Studio, place: Place) -> None:
    inside = app.workspace / "thumbnails" / "picture.png"
    inside.write_bytes(place.image.read_bytes())
    if os.name != "nt":
        (app.workspace / "thumbnails" / "link.png").symlink_to(place.secret)
    there = Place(app.workspace / "thumbnails", inside, place.secret)
    assert ask(app, "GET", f"/gradio_api/file={inside}")[0] == 200
    tried = [*traps(place), *traps(there), str(app.workspace / "datasets" / "x.png"), str(ROOT / "app.py")]
    for trap in tried:
        if trap == str(inside):
            continue
        status, answer = ask(app, "GET", f"/gradio_api/file={sendable(trap)}")
        assert status in (400, 403, 404) and SECRET.encode() not in answer, (trap, status)
    for route in ROUTES:
        if route.path.startswith(FILE) or "{" not in route.path or "heartbeat" in route.path:
            continue
        for trap in (str(place.secret), f"..%2f..%2f{place.secret}", f"%2e%2e/%2e%2e/{place.secret}", "\\\\host\\x"):
            path = re.sub(r"\{[^}]+\}", lambda _, trap=trap: trap, route.path)  # type: ignore[misc]
            status, answer = ask(app, route.methods[0], path, b"{}" if "POST" in route.methods else None)
            assert status in (400, 403, 404, 422) and SECRET.encode() not in answer, (path, status)


@pytest.mark.slow
def test_no_function_takes_a_file_that_was_not_uploaded(app: Studio, place: Place) -> None:
    _, answer = ask(app, "GET", "/config")
    functions = json.loads(answer)["dependencies"]
    assert len(functions) > 50
    some = [str(place.secret), f"\\\\host\\share\\{place.secret.name}", "http://example.com/x.png"]
    for function in functions:
        for trap in some:
            forged = {"path": trap, "url": trap, "orig_name": "x.png", "meta": {"_type": "gradio.FileData"}}
            values: list[Any] = [forged] * max(1, len(function["inputs"]))
            body = json.dumps({"data": values, "fn_index": function["id"], "session_hash": "fuzz"}).encode()
            status, answer = ask(app, "POST", "/gradio_api/queue/join", body)
            assert status == 403, (function["id"], trap, status, answer)
    for body in (b"{", b"[]", b"[" * 100_000, b'{"data": [' + b"[" * 5000 + b"]" * 5000 + b"]}", b"\xff\xfe", b"3"):
        assert ask(app, "POST", "/gradio_api/queue/join", body)[0] == 403


@pytest.mark.slow
def test_uploads_and_other_requests_have_a_size_limit(app: Studio) -> None:
    for path in ("/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/component_server", "/gradio_api/cancel"):
        assert ask(app, "POST", path, b"", **{"content-length": str(10**9)})[0] == 413
        assert ask(app, "POST", path, b"", **{"content-length": "-1"})[0] in (400, 413)
    # A body without a length is counted while it arrives.
    with socket.create_connection(("127.0.0.1", app.port), timeout=30) as line:
        head = (
            f"POST /gradio_api/queue/join HTTP/1.1\r\nHost: 127.0.0.1:{app.port}\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        line.sendall(head.encode())
        chunk = b"100000\r\n" + b"x" * 2**20 + b"\r\n"
        answer = b""
        with contextlib.suppress(OSError):  # the server closes the connection, as it should
            for _ in range(40):
                line.sendall(chunk)
        with contextlib.suppress(OSError):
            answer = line.recv(1000)
        assert not answer or b" 413 " in answer.split(b"\r\n")[0]
    assert ask(app, "GET", "/")[0] == 200


@pytest.mark.slow
def test_other_pages_cannot_embed_the_apps_images(app: Studio) -> None:
    elsewhere = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    for path in ("/theme.css", "/gradio_api/heartbeat/x", "/config", "/gradio_api/queue/data?session_hash=x"):
        assert ask(app, "GET", path, **elsewhere)[0] == 403
        assert ask(app, "GET", path, **elsewhere | {"sec-fetch-site": "same-site"})[0] == 403
    clicked = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert ask(app, "GET", "/", **clicked)[0] == 200, "a link to the app may be followed"
    assert ask(app, "GET", "/config", **clicked)[0] == 403
    assert ask(app, "GET", "/", **{"sec-fetch-site": "none", "sec-fetch-mode": "navigate"})[0] == 200


@pytest.mark.slow
def test_login_attempts_are_limited(tmp_path: Path) -> None:
    with studio(tmp_path / "workspace", "--password", "right", program=COLD, DISPLAY="") as app:
        form = {"content-type": "application/x-www-form-urlencoded"}
        assert ask(app, "GET", "/config")[0] == 401
        assert ask(app, "POST", "/gradio_api/upload", b"")[0] == 401
        answers = [ask(app, "POST", "/login", f"username=studio&password={n}".encode(), **form)[0] for n in range(12)]
        assert 200 not in answers and answers[-1] == 429
        assert ask(app, "POST", "/login", b"username=studio&password=right", **form)[0] == 429
