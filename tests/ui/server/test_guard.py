"""Foreign pages get 403: by name (DNS rebinding) and by origin (cross-site requests)."""

from __future__ import annotations

import asyncio

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from engine.machine.host_names import written_forms
from ui.server.guard import LocalGuard


async def hello(request: object) -> PlainTextResponse:
    return PlainTextResponse("hello")


async def talk(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("hello")
    await socket.close()


async def read_until_the_page_is_gone(request: Request) -> PlainTextResponse:
    raise ClientDisconnect


def test_a_page_that_is_closed_during_an_upload_is_no_error() -> None:
    routes = [Route("/upload", read_until_the_page_is_gone, methods=["POST"])]
    sent: list[object] = []

    async def run() -> None:
        scope = {"type": "http", "method": "POST", "path": "/upload", "raw_path": b"/upload", "query_string": b"",
                 "headers": [(b"host", b"127.0.0.1:7860")], "app": None}  # fmt: skip
        app = Starlette(routes=routes, middleware=[Middleware(LocalGuard)])

        async def receive() -> dict[str, object]:
            return {"type": "http.disconnect"}

        async def send(message: object) -> None:
            sent.append(message)

        await app(scope, receive, send)

    asyncio.run(run())
    assert not sent, "nobody waits for an answer"


def client(**options: object) -> TestClient:
    routes = [Route("/", hello, methods=["GET", "POST"]), WebSocketRoute("/talk", talk)]
    app = Starlette(routes=routes, middleware=[Middleware(LocalGuard, **options)])  # type: ignore[arg-type]
    return TestClient(app, base_url="http://127.0.0.1:7860")


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860"])
def test_its_own_names_are_answered(host: str) -> None:
    assert client().get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:7860",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "192.168.1.7:7860",
        "127.0.0.1:7860@evil.example",
        "evil.example/127.0.0.1",
        "127.0.0.1:no",
        "",
    ],
)
def test_a_foreign_host_is_refused(host: str) -> None:
    assert client().get("/", headers={"host": host}).status_code == 403


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:3000", "file://", "http://localhost:7860"]
)
def test_a_foreign_origin_is_refused(origin: str) -> None:
    assert client().post("/", headers={"origin": origin}).status_code == 403


def test_its_own_origin_is_answered() -> None:
    assert client().post("/", headers={"origin": "http://127.0.0.1:7860"}).status_code == 200


def test_websockets_are_guarded_too() -> None:
    own = {"host": "127.0.0.1:7860", "origin": "http://127.0.0.1:7860"}
    with client().websocket_connect("/talk", headers=own) as socket:
        assert socket.receive_text() == "hello"
    for foreign in ({"origin": "http://evil.example"}, {"host": "evil.example"}):
        with pytest.raises(WebSocketDisconnect), client().websocket_connect("/talk", headers=own | foreign):
            pass


def test_in_the_network_addresses_are_answered_and_foreign_names_are_not() -> None:
    open_client = client(any_address=True)
    assert open_client.get("/", headers={"host": "192.168.1.7:7860"}).status_code == 200
    assert open_client.get("/", headers={"host": "evil.example"}).status_code == 403


def test_a_name_that_the_user_allows_is_answered_and_others_are_told_how() -> None:
    behind = client(any_address=True, allowed=frozenset({"studio.example.org"}))
    assert behind.get("/", headers={"host": "studio.example.org"}).status_code == 200
    proxied = {"host": "127.0.0.1:7860", "origin": "https://studio.example.org"}
    assert behind.post("/", headers=proxied).status_code == 200
    assert behind.post("/", headers={"host": "studio.example.org", "origin": "https://evil.example"}).status_code == 403
    refused = behind.get("/", headers={"host": "studio.lan:7860"})
    assert refused.status_code == 403 and "--allow-host studio.lan" in refused.text
    assert "--allow-host" not in client().get("/", headers={"host": "evil.example"}).text


STUDIO = "https://studio.example.org"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "studio.example.org", "origin": STUDIO}, 200),
        ({"host": "studio.example.org:443", "origin": STUDIO}, 200),  # the proxy adds the port
        ({"host": "studio.example.org", "origin": f"{STUDIO}:8443"}, 200),  # the proxy's own port is another
        ({"host": "STUDIO.example.org", "origin": STUDIO}, 200),
        ({"host": "studio.example.org."}, 200),
        ({"host": "127.0.0.1:7860", "origin": STUDIO}, 200),  # nginx without proxy_set_header
        ({"host": "127.0.0.1:7860", "origin": STUDIO, "x-forwarded-host": "studio.example.org"}, 200),
        ({"host": "xn--mnchen-3ya.example", "origin": "https://xn--mnchen-3ya.example"}, 200),
        ({"host": "studio.example.org", "origin": STUDIO, "sec-fetch-site": "same-origin"}, 200),
        ({"host": "studio.example.org", "origin": STUDIO, "sec-fetch-site": "cross-site"}, 403),
        ({"host": "studio.example.org", "origin": STUDIO, "sec-fetch-site": "same-site"}, 403),
        ({"host": "studio.example.org", "origin": "null"}, 403),
        ({"host": "studio.example.org", "origin": "https://evil.example"}, 403),
        ({"host": "studio.example.org", "origin": "https://studio.example.org.evil.example"}, 403),
        ({"host": "studio.example.org", "origin": "https://studio.example.org@evil.example"}, 403),
        ({"host": "studio.example.org", "origin": "ftp://studio.example.org"}, 403),
        ({"host": "studio.example.org", "origin": "https://[studio"}, 403),
        ({"host": "studio.example.org, evil.example"}, 403),
        ({"host": "evil.example", "x-forwarded-host": "studio.example.org", "origin": STUDIO}, 403),
        ({"host": "evil.example", "forwarded": "host=studio.example.org"}, 403),
        ({"host": "sub.studio.example.org"}, 403),
        ({"host": "studio.example.org:port"}, 403),
        ({"host": "192.168.1.7:7860"}, 403),  # it listens on loopback only
        ({"host": "localhost.:7860", "origin": "http://localhost.:7860"}, 200),
    ],
)
def test_behind_a_reverse_proxy(headers: dict[str, str], status: int) -> None:
    names = written_forms("Studio.Example.org") | written_forms("münchen.example")
    assert client(allowed=names).post("/", headers=headers).status_code == status


@pytest.mark.parametrize(
    ("forwarded", "kept"),
    [
        ("studio.example.org", True),
        ("studio.example.org:8443, 127.0.0.1", True),
        ("127.0.0.1:7860", True),
        ("evil.example", False),
        ("evil.example, studio.example.org", False),
        ('a.b"><script>alert(1)</script>', False),
        ("", False),
    ],
)
def test_a_foreign_forwarded_name_does_not_reach_the_app(forwarded: str, kept: bool) -> None:
    def echo(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.headers.get("x-forwarded-host", "none"))

    guard = Middleware(LocalGuard, allowed=frozenset({"studio.example.org"}))  # type: ignore[arg-type]
    app = Starlette(routes=[Route("/", echo)], middleware=[guard])
    told = TestClient(app, base_url="http://127.0.0.1:7860").get("/", headers={"x-forwarded-host": forwarded}).text
    assert told == (forwarded if kept else "none")


def test_pages_may_load_nothing_from_elsewhere() -> None:
    policy = client().get("/").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
